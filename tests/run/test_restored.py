"""A model is scored at the length it was trained at, wherever it was written and whichever command reads it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fft import models
from fft.after.check import check
from fft.after.mergeable import load_sides
from fft.after.settings import CheckSettings, DiagnoseSettings, RepairSettings
from fft.after.subject import load_subject
from fft.commands.compare import differences
from fft.core.errors import InputError
from fft.data import length_of
from fft.data.several import SeveralData
from fft.experiment import Data, Experiment, Optim
from fft.run.accept import accept
from fft.run.restored import load_checkpoint, scored_length
from tests.helpers.tiny_runs import fft, record, refused, tune

LENGTH = 5  # of texts that have 7 tokens
CUT = f"texts are cut to {LENGTH} tokens, as in the training of "
QUICK = ("--steps", 4, "--batch-size", 16, "--lr", 1e-2, "--keep", "latest")


@pytest.fixture(scope="module")
def short(tiny, tmp_path_factory):
    """A finished run on texts that were cut."""
    folder = tmp_path_factory.mktemp("restored") / "short"
    answer = tune(tiny, folder, *QUICK, "--tolerance", 1, "--max-length", LENGTH)
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture
def longer(short, tmp_path):
    """The same run as though it had been trained at another length."""
    shutil.copytree(short, tmp_path / "longer")
    edit(tmp_path / "longer" / "experiment.json", max_length=LENGTH + 1)
    return tmp_path / "longer"


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def logits_of(model, task, folder, *flags):
    """The logits of `fft eval`, and its notes."""
    file = folder / "predictions.jsonl"
    answer = fft(
        "eval", "--model", model, "--task", task, "--head", "original", "--predictions", file, *flags, "--json"
    )
    return [json.loads(line)["logits"] for line in file.read_text().splitlines()], answer.json["notes"]


# --- the rule ---


def checkpoint(max_length, positions=512):
    return SimpleNamespace(
        max_length=max_length, model=SimpleNamespace(config=SimpleNamespace(max_positions=positions))
    )


@pytest.mark.parametrize(
    ("asked", "lengths", "tokens", "said"),
    [
        (None, {"a": None}, None, None),
        (None, {"a": None, "b": 12}, 12, "texts are cut to 12 tokens, as in the training of b;"),
        (None, {"a": 12, "b": 12}, 12, "training of a and b;"),
        (None, {"a": 128, "b": None}, 128, None),
        (64, {"a": 12, "b": 24}, 64, None),
        (64, {"a": None}, 64, None),
    ],
)
def test_what_was_asked_for_comes_first_and_then_the_length_of_the_training(asked, lengths, tokens, said):
    found = scored_length(asked, {name: checkpoint(length) for name, length in lengths.items()})
    assert found.tokens == tokens and len(found.notes) == (said is not None)
    assert said is None or said in found.notes[0]


def test_without_either_it_is_128_or_what_the_model_takes():
    assert length_of(None, checkpoint(None, positions=40).model.config) == 40
    assert length_of(None, checkpoint(None).model.config) == 128
    assert length_of(None, checkpoint(None, positions=4096).model.config, "chat") == 1024


def test_two_lengths_are_one_too_many():
    with pytest.raises(
        InputError, match=r"training: a to 12, b to 128 tokens\. Give one length for all with --max-len"
    ):
        scored_length(None, {"a": checkpoint(12), "b": checkpoint(128)})


# --- a run, and what it leaves ---


def test_a_run_is_scored_as_it_was_trained(short, tiny, tmp_path):
    task = tiny / "original.csv"
    ours, notes = logits_of(short, task, tmp_path)
    asked, silent = logits_of(short, task, tmp_path, "--max-length", LENGTH)
    written, _ = logits_of(short / "model", task, tmp_path)
    whole, _ = logits_of(short, task, tmp_path, "--max-length", 128)
    assert ours == asked == written != whole
    assert notes[0].startswith(f"{CUT}{short};") and not any("training" in note for note in silent)


@pytest.mark.parametrize("head", ["original", "new"])
def test_on_the_rows_that_were_held_out_the_score_is_the_runs_own(short, tiny, head):
    answer = fft("eval", "--model", short, "--task", tiny / f"{head}.csv", "--head", head, "--held-out", "--json").json
    was = record(short)[head]
    assert (answer["score"], answer["n"]) == (pytest.approx(was["after"], abs=1e-12), was["n"])


def test_the_length_is_in_what_a_run_leaves(short, tmp_path):
    from transformers import AutoTokenizer

    exported = tmp_path / "exported"
    assert fft("export", short, "--out", exported).code == 0
    for folder in (short / "model", exported):
        assert models.load(folder).max_length == LENGTH
        assert len(AutoTokenizer.from_pretrained(folder)("good " * 20, truncation=True)["input_ids"]) == LENGTH


def test_a_run_of_before_still_has_its_length_and_its_model_none(short, tmp_path):
    shutil.copytree(short, tmp_path / "old")
    told = json.loads((tmp_path / "old" / "model" / "fft_heads.json").read_text())
    assert told.pop("max_length") == LENGTH
    (tmp_path / "old" / "model" / "fft_heads.json").write_text(json.dumps(told))
    assert load_checkpoint(str(tmp_path / "old")).max_length == LENGTH
    assert load_checkpoint(str(tmp_path / "old" / "model")).max_length is None


@pytest.mark.parametrize("value", [0, -4, True, "12", 12.5])
def test_a_length_that_we_never_write_is_refused(short, tmp_path, value):
    shutil.copytree(short / "model", tmp_path / "model")
    edit(tmp_path / "model" / "fft_heads.json", max_length=value)
    with pytest.raises(InputError, match=r"fft_heads\.json is damaged: max_length must be a positive integer"):
        models.load(tmp_path / "model")


# --- both sides of a pair ---


def test_a_check_of_a_run_says_what_the_run_said(short, tiny):
    original = SeveralData.of(Data(str(tiny / "original.csv")))
    settings = CheckSettings(str(tiny / "bert"), str(short), original, max_drop="0.5", held_out=True)
    found = check(settings).record
    assert found["original"][0]["change"] == record(short)["original"]
    assert found["notes"][0].startswith(f"{CUT}{short};")


def test_diagnose_and_repair_read_at_the_length_of_the_run(short, tiny):
    base, original, new = str(tiny / "bert"), Data(str(tiny / "original.csv")), Data(str(tiny / "new.csv"))
    subject = load_subject(DiagnoseSettings(base, str(short), original))
    sides = load_sides(RepairSettings(base, str(short), original, new))
    for data, told in ((subject.data, subject.record), *((data, sides.record) for data in sides.data.values())):
        assert max(data.lengths) == LENGTH and told["notes"][0].startswith(f"{CUT}{short};")
    assert sides.tuned.max_length == LENGTH, "the repaired model carries it"
    assert max(load_subject(DiagnoseSettings(base, str(short), original, max_length=6)).data.lengths) == 6


def test_two_runs_of_different_lengths_are_refused_in_one_command(short, longer, tiny, tmp_path):
    old, new, out = ("--original", tiny / "original.csv"), ("--new", tiny / "new.csv"), ("--out", tmp_path / "out")
    pair = (short, longer)
    commands = {
        "check": (*pair, *old, "--head", "original"),
        "diagnose": (*pair, *old, *out, "--head", "original"),
        "repair": (*pair, *old, *new, *out, "--original-head", "original"),
        "merge": (tiny / "bert", *pair, "--how", "soup", *out),
    }
    told = f"texts were cut to different lengths in training: {short} to {LENGTH}, {longer} to {LENGTH + 1} tokens"
    for command, flags in commands.items():
        refused(fft(command, *flags), f"{told}. Give one length for all with --max-length")
    assert not (tmp_path / "out").exists()
    assert fft("merge", *commands["merge"], "--max-length", 9).code == 0
    assert models.load(tmp_path / "out").max_length == 9


@pytest.mark.parametrize(("how", "carried"), [((), LENGTH), (("--max-length", 9), 9)])
def test_a_merged_model_carries_the_length(short, tiny, tmp_path, how, carried):
    assert fft("merge", tiny / "bert", short, "--how", "interpolate", "--out", tmp_path / "m", *how).code == 0
    assert models.load(tmp_path / "m").max_length == carried


def test_a_merged_model_of_unknown_lengths_carries_none(tiny, tmp_path):
    base, out = tiny / "bert", tmp_path / "m"
    refused(
        fft("merge", base, base, "--how", "interpolate", "--out", out, "--max-length", 999), "must be between 3 and 160"
    )
    assert fft("merge", base, base, "--how", "interpolate", "--out", out).code == 0
    assert models.load(out).max_length is None and not (out / "tokenizer_config.json").exists()


# --- where a run begins with one, and beside others ---


def test_training_on_from_a_run_at_another_length_is_noted(short, tiny, tmp_path):
    def notes(**settings):
        experiment = Experiment(str(short / "model"), Data(str(tiny / "new.csv")), optim=Optim(steps=1), **settings)
        accepted = accept(experiment, Path(tmp_path / "run"))
        return accepted.checkpoint.max_length, [note for note in accepted.notes if "in the training of" in note]

    length, (said,) = notes()
    assert length == 128 and f"were cut to {LENGTH} in the training of {short}/model: " in said
    assert f"give --max-length {LENGTH}" in said
    assert notes(max_length=LENGTH) == (LENGTH, []) and notes(max_length=9) == (9, [])


def test_fisher_information_is_of_texts_as_in_the_training(short, tiny, tmp_path):
    asked = ("--model", short, "--original", tiny / "original.csv", "--head", "original", "--samples", 16, "--json")
    own = fft("fisher", *asked, "--out", tmp_path / "own")
    whole = fft("fisher", *asked, "--out", tmp_path / "whole", "--max-length", 128)
    assert f"note: {CUT}" in own.err and CUT not in whole.err and own.json["trace"] != whole.json["trace"]


def test_runs_of_different_lengths_are_compared_with_a_warning(short):
    told = record(short)
    other = told | {"experiment": told["experiment"] | {"max_length": None}}
    assert differences([told, other]) == [
        "the runs differ in their length of texts, so their scores are not comparable"
    ]
    assert differences([other, other | {"experiment": told["experiment"] | {"max_length": 128}}]) == []
    text = other["experiment"] | {"new": other["experiment"]["new"] | {"kind": "text"}}
    long, cut = ({"experiment": text | {"max_length": length}} for length in (1024, 128))
    assert differences([other | {"experiment": text}, other | long]) == []
    assert len(differences([other | {"experiment": text}, other | cut])) == 1


def test_an_adapter_of_peft_carries_the_length(tiny, tmp_path):
    out, adapter = tmp_path / "lora", tmp_path / "adapter"
    tune(tiny, out, *QUICK, "--method", "lora", "--tolerance", 1, "--max-length", LENGTH)
    assert fft("export", out, "--to", "peft", "--out", adapter).code == 0
    flags = ("--model", tiny / "bert", "--adapter", adapter, "--task", tiny / "new.csv", "--held-out", "--json")
    found = fft("eval", *flags).json
    assert found["notes"][0].startswith(f"{CUT}{adapter};")
    assert found["score"] == pytest.approx(record(out)["new"]["after"], abs=1e-12)
    assert fft("export", tiny / "bert", "--adapter", adapter, "--out", tmp_path / "whole").code == 0
    assert models.load(tmp_path / "whole").max_length == LENGTH
