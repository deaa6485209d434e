"""`--method auto`: its choices, and that the evidence it names exists."""

from pathlib import Path

import pytest

import fft as package
from fft.core.errors import InputError
from fft.run import auto
from tests.helpers.tiny_runs import fft, record

RESULTS = Path(__file__).parents[2]


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("unlabelled", [True, False])
@pytest.mark.parametrize("original", [True, False])
def test_a_choice_names_a_row_that_is_in_the_results(original, unlabelled, head):
    choice = auto.choose(original, unlabelled, head)
    if choice.row:
        lines = (RESULTS / auto.EVIDENCE).read_text().splitlines()
        assert choice.row in lines and auto.COLUMNS in lines
        assert f"{auto.EVIDENCE}: method {choice.method}, strength 1, original 0." in str(choice)
        assert choice.row.startswith(f"| {choice.method} |")
    assert (choice.row is None) == (choice.method == "distill")


@pytest.mark.parametrize(
    ("model", "given", "method", "on"),
    [
        ("bert", ("--original", "{tiny}/original.csv"), "kl", "original"),
        ("bert", ("--unlabelled", "{tiny}/original.csv"), "kl", "unlabelled"),
        ("bert", (), "lwf", None),
        ("bare", (), "distill", "new"),
    ],
)
def test_a_run_says_what_was_chosen_and_why(tiny, tmp_path, model, given, method, on):
    given = [part.format(tiny=tiny) for part in given]
    short = ("--steps", 2, "--batch-size", 16, "--tolerance", 1)
    answer = fft("tune", "--model", tiny / model, "--new", tiny / "new.csv", *given, "--out", tmp_path / "run", *short)
    assert answer.code in (0, 4), answer.err
    assert f"method auto: {method}, because" in answer.out
    (member,) = record(tmp_path / "run")["experiment"]["method"]
    assert member["name"] == method and member.get("on") == on


def test_a_call_from_python_chooses_as_the_command_line_does(tiny, tmp_path, capfd):
    told, more = [], {"verbose": False, "steps": 2, "batch_size": 16}
    run = package.tune(tiny / "bert", tiny / "new.csv", out=tmp_path / "run", emit=told.append, **more)
    assert capfd.readouterr() == ("", "")
    assert [member["name"] for member in run.record["experiment"]["method"]] == ["lwf"]
    assert told[0]["event"] == "say" and told[0]["text"].startswith("method auto: lwf, because there are no original")
    with pytest.raises(InputError, match="nowhere"):
        package.tune(tmp_path / "nowhere", tiny / "new.csv", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_tasks_that_predict_tokens_have_the_language_head_and_no_measured_row():
    for original, unlabelled, method in ((True, False, "kl"), (False, True, "kl"), (False, False, "lwf")):
        choice = auto.choose_for("a model that is not read", original, unlabelled, language=True)
        assert choice.method == method and choice.row is None and "not measured" in str(choice)
