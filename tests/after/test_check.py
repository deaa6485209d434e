"""`fft check`: the same figures as a run's own, a verdict for any two checkpoints, and what is refused."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

import fft.after.pair as fft_pair
from fft.after.check import check
from fft.after.settings import CheckSettings
from fft.data.several import SeveralData
from fft.experiment import Data
from fft.report.checked import line_end, one_line, page, show
from fft.stats.retention import overall
from tests.helpers import tiny_checkpoint
from tests.helpers.outline import Outline
from tests.helpers.tiny_checkpoint import altered, regression
from tests.helpers.tiny_runs import fft, record, refused, tune

HOSTILE = "<script>alert('&amp;\"x')</script>"


def misheard(tensors):
    """Two of the four bad words are taken for a good one."""
    embedding, words = tensors["bert.embeddings.word_embeddings.weight"], tiny_checkpoint.vocabulary()
    embedding[[words.index("awful"), words.index("sad")]] = embedding[words.index("good")]


def less_sure(tensors):
    """Other logits, the same predictions."""
    tensors["classifier.weight"] *= 0.9


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run that forgot some of the original task, and the answer of `fft tune`."""
    folder = tmp_path_factory.mktemp("check") / "run"
    flags = ("--steps", 16, "--batch-size", 16, "--lr", 1e-2, "--tolerance", 0.01, "--keep", "latest")
    return tune(tiny, folder, *flags), folder


@pytest.fixture(scope="module")
def hurt(tiny, tmp_path_factory):
    """The base, spoilt by somebody else."""
    return altered(tiny / "bert", tmp_path_factory.mktemp("hurt"), change=misheard)


# --- the figures ---


def test_a_check_says_what_the_run_said_of_the_same_two_models(run, tiny):
    told, folder = run
    flags = ("--original", tiny / "original.csv", "--held-out", "--max-drop", "0.01", "--json")
    answer = fft("check", tiny / "bert", folder, *flags)
    (found,), was = answer.json["original"], record(folder)
    assert was["original"]["changed"] > 0, "a run that changed nothing would prove nothing"
    assert found["change"] == was["original"] and found["verdict"] == was["verdict"]
    assert (answer.code, answer.json["outcome"]) == (told.code, was["verdict"]["outcome"])
    assert found["sha256"] == was["data"]["original"]["splits"]["test"]["sha256"]
    assert found["heads"] == {"base": "original", "tuned": "original"} and found["notes"] == []
    assert answer.json["base"]["sha256"] == was["base_sha256"]


def test_all_rows_of_what_a_run_was_tuned_with_are_scored_with_a_warning(run, tiny):
    flags = ("--original", tiny / "original.csv", "--new", tiny / "new.csv", "--json")
    answer = fft("check", tiny / "bert", run[1], *flags)
    (found,), new = answer.json["original"], answer.json["new"]
    assert found["change"]["n"] == 240 and found["notes"] == [], "full has read no row of the original"
    assert any("were trained on in" in note and "give --held-out" in note for note in new["notes"])
    assert new["heads"] == {"base": None, "tuned": "new"} and new["change"] is None and new["verdict"] is None
    assert new["score"]["n"] == 240 and 0 < new["score"]["value"] <= 1 and "no head 'new'" in new["notes"][0]
    again = fft("check", run[1], run[1], "--original", tiny / "new.csv", "--new", tiny / "new.csv", "--json").json
    assert again["original"][0]["heads"] == {"base": "new", "tuned": "new"}, "a run's classifier is its new head"
    assert again["new"]["change"]["change"] == 0 and "bit for bit" in again["original"][0]["notes"][0]


@pytest.mark.parametrize(
    ("budget", "margin", "code", "outcome"),
    [
        ("0.02", 0.02, 0, "pass"),
        ("2%", 0.02, 0, "pass"),  # of a base that has every row right
        ("0.01", 0.01, 4, "undecided"),
        ("1%", 0.01, 4, "undecided"),
    ],
)
def test_too_few_rows_leave_it_undecided_and_say_how_many_would_do(tiny, tmp_path, budget, margin, code, outcome):
    altered(tiny / "bert", tmp_path, "other", less_sure)
    flags = ("--original", tiny / "original.csv", "--max-drop", budget)
    answer = fft("check", tiny / "bert", tmp_path / "other", *flags, "--json")
    (found,) = answer.json["original"]
    assert (answer.code, answer.json["outcome"], answer.json["max_drop"]) == (code, outcome, budget)
    assert found["change"]["changed"] == 0 and found["verdict"]["tolerance"] == pytest.approx(margin)
    assert found["verdict"]["needed"] == (368 if outcome == "undecided" else None)
    said = fft("check", tiny / "bert", tmp_path / "other", *flags).out
    assert said.splitlines()[-1].startswith(f"{outcome}: original accuracy 1.000 → 1.000 on 240 test examples")
    assert ("about 368 test examples would decide" in said) == (outcome == "undecided")
    assert ("of the base's score" in said) == ("%" in budget)


def test_what_was_lost_is_named_by_label_and_by_row_with_its_text(tiny, hurt, tmp_path):
    answer = fft("check", tiny / "bert", hurt, "--original", tiny / "original.csv", "--out", tmp_path / "o", "--json")
    told = answer.json
    (found,) = told["original"]
    assert answer.code == 1 and told["outcome"] == "fail"
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"check.html", "check.json", "examples.jsonl"}
    assert json.loads((tmp_path / "o" / "check.json").read_text()) == told
    rows = [line.split(",") for line in (tiny / "original.csv").read_text().splitlines()[1:]]
    lines = [json.loads(line) for line in (tmp_path / "o" / "examples.jsonl").read_text().splitlines()]
    assert [(line["row"], line["label"]) for line in lines] == [(at, row[1]) for at, row in enumerate(rows, 1)]
    for side, score in (("base", "before"), ("tuned", "after")):
        assert np.mean([line[side]["prediction"] == line["label"] for line in lines]) == found["change"][score]
    said = [(line["row"], line["label"], *(line[side]["prediction"] for side in ("base", "tuned"))) for line in lines]
    wrong = [row for row, label, base, tuned in said if base == label != tuned]
    right = [row for row, label, base, tuned in said if base != label == tuned]
    assert wrong == [example["row"] for example in found["worse"]] and len(wrong) > 10
    assert right == [example["row"] for example in found["better"]]
    assert all(rows[example["row"] - 1] == [example["text"], example["label"]] for example in found["worse"])
    worst, least = found["labels"]
    assert worst["label"] == "negative" and worst["lost"] == len(wrong) and least["lost"] == 0
    assert "the first 10 of" in answer.err and found["worse"][9]["text"] in answer.err
    assert found["worse"][10]["text"] not in answer.err


def test_the_tables_fit_80_columns_and_lose_nothing(tiny, hurt):
    found = check(CheckSettings(str(tiny / "bert"), str(hurt), SeveralData.of(Data(str(tiny / "original.csv")))))
    change = found.record["original"][0]["change"]
    console = Console(width=80, file=io.StringIO(), color_system=None)
    show(found.record, console)
    text = console.file.getvalue()
    table = text[: text.index("fail:")]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80
    low, high = (f"{change[end]:+.3f}".replace("-", "−") for end in ("low", "high"))
    assert f"[{low},{high}]" in table.split() and "fail" in table.split()
    assert f"original: accuracy, p = {change['mcnemar_p']:.2g};" in text


def test_without_out_nothing_is_written(tiny, hurt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fft("check", tiny / "bert", hurt, "--original", tiny / "original.csv").code == 1
    assert list(tmp_path.iterdir()) == []


def test_targets_that_do_not_vary_decide_nothing(tiny, tmp_path):
    rows = [(f"a film of house number {letter}", -1) for letter in "abcdefghijklmnop"]
    source = tiny_checkpoint.write_csv(tmp_path / "same.csv", ("text", "score"), rows)
    models = [regression(tiny / "bert", tmp_path, name, shift) for name, shift in (("before", 0.0), ("after", 2.0))]
    columns = ("-label", "score", "-kind", "regression")
    for budget, tolerance in (("0.01", 0.01), ("1%", None)):
        flags = [f"--original{part}" if part.startswith("-") else part for part in ("", *columns)]
        asked = ("--original", source, *flags[1:], "--max-drop", budget, "--out", tmp_path / budget, "--json")
        answer = fft("check", *models, *asked)
        assert answer.code == 4 and "decides nothing: all 16 rows have the target -1: pearson is 0" in answer.err
        (found,) = answer.json["original"]
        reason = found["verdict"]["reason"]
        assert found["verdict"] == dict.fromkeys(("drop", "drop_low", "drop_high", "needed")) | {
            "outcome": "undecided",
            "tolerance": tolerance,
            "reason": reason,
        }
        assert reason in (tmp_path / budget / "check.html").read_text()
        assert any("published splits without targets" in note for note in found["notes"])
    scored = fft(
        "eval", "--model", models[0], "--task", source, *(f"--task{one}" if one[0] == "-" else one for one in columns)
    )
    assert (
        scored.code == 0
        and "pearson 0.0000 no interval on 16 rows" in scored.out
        and "note: test: all 16" in scored.out
    )


def test_a_regression_lists_what_moved_furthest(tiny, tmp_path):
    source = tiny_checkpoint.write_targets(tmp_path / "targets.csv", rows=60)
    models = [regression(tiny / "bert", tmp_path, name, shift) for name, shift in (("before", 0.0), ("after", 2.0))]
    flags = ("--original", source, "--original-label", "score", "--original-kind", "regression", "--metric", "rmse")
    answer = fft("check", *models, *flags, "--max-drop", "5%", "--out", tmp_path / "out", "--json")
    (found,) = answer.json["original"]
    change, verdict = found["change"], found["verdict"]
    assert verdict["tolerance"] == pytest.approx(0.05 * change["before"]) and found["labels"] == []
    assert change["change"] == pytest.approx(change["before"] - change["after"]) and change["mcnemar_p"] is None
    grown = [abs(one["tuned"] - one["label"]) - abs(one["base"] - one["label"]) for one in found["worse"]]
    assert grown == sorted(grown, reverse=True) and len(grown) > 1 and min(grown) > 0
    assert len(found["worse"]) + len(found["better"]) == 60
    assert "further from the target" in answer.err
    assert "Further from the target" in (tmp_path / "out" / "check.html").read_text()


def test_both_checkpoints_are_scored_by_the_same_programs(run, tiny, monkeypatch):
    made = []

    def spy(*arguments):
        made.append(make_predict(*arguments))
        return made[-1]

    make_predict = fft_pair.make_predict
    monkeypatch.setattr("fft.after.pair.make_predict", spy)
    settings = CheckSettings(str(tiny / "bert"), str(run[1]), SeveralData.of(Data(str(tiny / "original.csv"))))
    lengths = {len(line.split()) for line in (tiny / "original.csv").read_text().splitlines()[1:]}
    jax.clear_caches()  # the program is shared with all that scored this model before
    check(settings)
    (predictor,) = made
    assert predictor.__wrapped__._cache_size() == len(lengths) == 1, "one program a length, though one has a head more"


def test_several_original_tasks_pass_together_or_not_at_all(tiny, hurt, tmp_path):
    rows = [(text, "positive") for text, feeling, _ in tiny_checkpoint.sentences(240, 1) if feeling > 0]
    unhurt = tiny_checkpoint.write_csv(tmp_path / "unhurt.csv", ("text", "label"), rows)
    originals = SeveralData.of(*map(Data, (unhurt, str(tiny / "original.csv"))))
    found = check(CheckSettings(str(tiny / "bert"), str(hurt), originals, max_drop="0.05"))
    assert [task["verdict"]["outcome"] for task in found.record["original"]] == ["pass", "fail"]
    assert (found.record["outcome"], found.exit_code, len(found.examples)) == ("fail", 1, 240 + len(rows))
    flags = ("--original", unhurt, tiny / "original.csv", "--max-drop", "0.05", "--json")
    answer = fft("check", tiny / "bert", hurt, *flags)
    assert (answer.code, answer.json["original"]) == (1, found.record["original"]), "the command takes several too"
    orders = [("pass",), ("pass", "undecided"), ("undecided", "fail", "pass"), ("fail", "pass")]
    assert [overall(order) for order in orders] == ["pass", "undecided", "fail", "fail"]


# --- the page ---


def test_every_text_of_the_page_is_escaped(tiny, tmp_path):
    labels = (f"negative {HOSTILE}", "positive")
    base = tmp_path / f"base {HOSTILE.replace('/', '|')}"
    tiny_checkpoint.write_checkpoint(base, labels=labels)
    broken = altered(base, tmp_path, change=misheard)
    rows = [
        (f"{HOSTILE} {8 * f'{text} '}", labels[feeling > 0]) for text, feeling, _ in tiny_checkpoint.sentences(80, 1)
    ]
    source = tiny_checkpoint.write_csv(tmp_path / "hostile.csv", ("text", "label"), rows)
    answer = fft("check", base, broken, "--original", source, "--out", tmp_path / "out", "--json")
    text = (tmp_path / "out" / "check.html").read_text()
    outline = Outline(text)
    assert answer.json["original"][0]["worse"] and outline.open == [] and outline.loads == []
    assert "script" not in outline.tags and "<script" not in text
    words = "".join(outline.words)
    assert words.count(HOSTILE) > len(answer.json["original"][0]["worse"]) and HOSTILE.replace("/", "|") in words


def test_the_page_says_what_the_terminal_says(tiny, hurt, tmp_path):
    flags = ("--original", tiny / "original.csv", "--max-drop", "5%", "--out", tmp_path / "out")
    answer = fft("check", tiny / "bert", hurt, *flags)
    told = json.loads((tmp_path / "out" / "check.json").read_text())
    text = " ".join(" ".join(Outline(page(told)).words).split())
    said = next(line for line in answer.out.splitlines() if line.startswith("fail: ")).removeprefix("fail: original ")
    assert said in text and "5% of the base's score" in said
    order = ("Failed: the original task", "Scores", "By label", "Newly wrong", "What was compared")
    assert sorted(order, key=text.index) == list(order)
    assert all(example["text"] in text for example in told["original"][0]["worse"])


def test_a_text_cannot_steer_the_terminal():
    assert one_line("good\x1b[2J\x9b2J\r\nfilm \u202eevil") == "good [2J 2J film evil"
    assert one_line("a" * 100) == "a" * 59 + "…"
    assert line_end("a\n" + "b" * 100) == "…" + "b" * 59 and line_end("a\nb") == "a b"


# --- what is refused: one message, exit code 2, nothing written ---


def other_tokens(folder):
    told = json.loads((folder / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (folder / "tokenizer.json").write_text(json.dumps(told))


OTHERS = {
    "family": (lambda folder: tiny_checkpoint.write_checkpoint(folder, "distilbert"), "family is "),
    "epsilon": (
        lambda folder: tiny_checkpoint.write_checkpoint(folder, layer_norm_eps=1e-6),
        "epsilon is 1e-",
    ),
    "headless": (lambda folder: tiny_checkpoint.write_checkpoint(folder, head=False), "its heads are: none"),
    "other labels": (
        lambda folder: tiny_checkpoint.write_checkpoint(folder, labels=("LABEL_0", "LABEL_1")),
        "into LABEL_0, LABEL_1",
    ),
    "labels in another order": (
        lambda folder: tiny_checkpoint.write_checkpoint(folder, labels=("positive", "negative")),
        "the same labels in the same order",
    ),
    "other tokens": (
        lambda folder: [tiny_checkpoint.write_checkpoint(folder), other_tokens(folder)],
        "their tokenizers differ",
    ),
    "nothing there": (lambda folder: None, "does not exist"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_checkpoints_that_cannot_be_compared(tiny, tmp_path, case):
    make, message = OTHERS[case]
    make(tmp_path / "other")
    flags = ("--original", tiny / "original.csv", "--out", tmp_path / "out")
    refused(fft("check", tiny / "bert", tmp_path / "other", *flags), message)
    refused(fft("check", tmp_path / "other", tiny / "bert", *flags), message)
    assert not (tmp_path / "out").exists()


def test_dropout_and_tied_embeddings_are_no_difference(tiny, tmp_path):
    other = altered(tiny / "bert", tmp_path, hidden_dropout_prob=0.3, initializer_range=0.5, tie_word_embeddings=False)
    assert fft("check", tiny / "bert", other, "--original", tiny / "original.csv").code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-drop", ""), "--max-drop '': expected a number above 0"),
        (("--max-drop", "0"), "--max-drop '0': expected a number above 0"),
        (("--max-drop=-1%",), "--max-drop '-1%': expected a number above 0"),
        (("--max-drop", "nan"), "--max-drop 'nan'"),
        (("--max-drop", "little"), "--max-drop 'little'"),
        (("--max-drop", "1"), "nothing would fail: give 1% for one per cent of it"),
        (("--max-drop", "100%"), "nothing would fail"),
        (("--head", "third"), "has no head third; its heads are: original"),
        (("--tuned-head", "third"), "has no head third; its heads are: original"),
        (("--head", "original", "--original-name", "other"), "--head original and --original.name other differ"),
        (("--new", "none.csv"), "none.csv"),
        (("--new", "none.csv", "--new-name", "third"), "has no head third"),
        (("--original-label", "stars"), "'stars'"),
        (("--original-kind", "regression"), "the head 'original' is for classification"),
        (("--metric", "f7"), "--metric f7 is unknown"),
        (("--metric", "rmse"), "--metric rmse fits no task here"),
        (("--head", "original", "third", "fourth"), "--head has 3 values for 1 original task:"),
        (("--max-length", "161"), "give at most 160, the positions of"),
    ],
)
def test_flags_that_do_not_fit(tiny, tmp_path, flags, message):
    given = ("--original", tiny / "original.csv", "--out", tmp_path / "out")
    refused(fft("check", tiny / "bert", tiny / "bert", *given, *flags), message)
    assert list(tmp_path.iterdir()) == []


def test_the_original_must_be_given(tiny):
    answer = fft("check", tiny / "bert", tiny / "bert", "--json")
    assert answer.code == 2 and answer.json["exit_code"] == 2 and "--original" in answer.err


def test_a_folder_below_a_file_is_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    other = altered(tiny / "bert", tmp_path)
    flags = ("--original", tiny / "original.csv", "--out", tmp_path / "file" / "out", "--json")
    answer = fft("check", tiny / "bert", other, *flags)
    assert answer.code == 2 and "file is a file; choose a folder" in answer.json["error"]
