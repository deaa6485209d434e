"""The notes on scored rows that a model has seen, counted by the records of its runs."""

import json
import shutil

import pytest

from fft.after.merge import merge
from fft.after.settings import MergeSettings
from fft.data import read_scored
from fft.data.splits import text_keys
from fft.disk.files import write_json
from fft.disk.folder import ROWS
from fft.experiment import Data
from fft.run.seen import Scored, seen_notes
from tests.helpers.tiny_runs import fft, record, tune

FLAGS = ("--steps", 1, "--batch-size", 4, "--tolerance", 1)


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """`last` uses only its training rows; `kl` trains on the original's rows too and keeps the best step."""
    out = tmp_path_factory.mktemp("runs")
    assert tune(tiny, out / "last", *FLAGS, "--keep", "latest").code == 0
    assert tune(tiny, out / "kl", *FLAGS, "--method", "kl", "--seed", 1).code == 0
    return out


def notes(model, task, held_out=False):
    """Return the notes of `fft eval` on the rows of a file."""
    rows = read_scored(Data(str(task)), held_out)
    return seen_notes([str(model)], Scored(text_keys(rows), str(task), "other", held_out, "--task.test"))


def rows(run, task, role):
    return record(run)["data"][task]["splits"][role]["rows"]


def test_the_rows_that_a_run_was_trained_on_are_counted(runs, tiny):
    count = rows(runs / "last", "new", "train")
    for model in (runs / "last", runs / "last" / "model"):
        (said,) = notes(model, tiny / "new.csv")
        assert said.startswith(f"of these 240 rows {count} were trained on in {runs / 'last'}, so") and count < 240
        assert "give --held-out" in said and "--task.test" in said
        assert not notes(model, tiny / "new.csv", held_out=True)
        assert not notes(model, tiny / "original.csv"), "full does not read the original, and the last step was kept"


def test_rows_of_the_original_that_a_method_reads_and_those_that_choose_count_too(runs, tiny):
    told = {task: [rows(runs / "kl", task, role) for role in ("train", "validation")] for task in ("new", "original")}
    for task, (trained, choosing) in told.items():
        (said,) = notes(runs / "kl", tiny / f"{task}.csv")
        assert f"{trained} were trained on in {runs / 'kl'} and {choosing} chose the step that it keeps" in said


def test_the_same_texts_in_another_file_are_found(runs, tiny, tmp_path):
    lines = (tiny / "new.csv").read_text().splitlines()
    (tmp_path / "half.csv").write_text("\n".join([lines[0], *lines[1:121]]) + "\n")
    (said,) = notes(runs / "last", tmp_path / "half.csv")
    assert said.startswith("of these 120 rows ")


@pytest.mark.parametrize("gone", [False, True])
def test_a_merged_model_is_asked_through_its_parents(runs, tiny, tmp_path, gone):
    parents = [tmp_path / name for name in ("last", "kl")]
    for parent in parents:
        shutil.copytree(runs / parent.name, parent)
    merge(MergeSettings(str(tiny / "bert"), tuple(map(str, parents)), "soup"), tmp_path / "merged")
    if gone:
        shutil.rmtree(parents[1])
    said = notes(tmp_path / "merged", tiny / "new.csv")
    assert len(said) == 2 and sum(f"trained on in {parents[0]}" in note for note in said) == 1
    assert any(f"names {parents[1]}, which does not exist" in note for note in said) == gone
    assert any(f"trained on in {parents[1]}" in note for note in said) != gone


def test_a_run_that_went_on_from_a_run_has_seen_its_rows_too(runs, tiny, tmp_path):
    shutil.copytree(runs / "last", tmp_path / "next")
    told = json.loads((tmp_path / "next" / "experiment.json").read_text())
    write_json(tmp_path / "next" / "experiment.json", told | {"model": str(runs / "kl" / "model")})
    said = notes(tmp_path / "next", tiny / "new.csv")
    assert [
        note.split(" trained on in ")[1].startswith(str(run))
        for run, note in zip((tmp_path / "next", runs / "kl"), said, strict=True)
    ] == [True, True]


def test_eval_says_it_and_of_a_run_folder_without_its_rows_that_it_had_the_source(runs, tiny, tmp_path):
    shutil.copytree(runs / "last", tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / ROWS)
    for model, part in ((runs / "last", "were trained on in"), (tmp_path / "old", "too old to record how many")):
        found = [
            fft("eval", "--model", model, "--task", tiny / "new.csv", *flag, "--json").json["notes"]
            for flag in ([], ["--held-out"])
        ]
        assert [sum(part in note for note in each) for each in found] == [1, 0]


def test_check_json_carries_every_note(runs, tiny, tmp_path):
    out = tmp_path / "checked"
    flags = ("--original", tiny / "original.csv", "--new", tiny / "new.csv", "--out", out)
    assert fft("check", tiny / "bert", runs / "kl", *flags).code in (0, 1, 4)
    found = json.loads((out / "check.json").read_text())
    assert sum("trained on in" in note for note in found["notes"]) == 2
    assert found["notes"] == [
        *(f"original: {note}" for note in found["original"][0]["notes"]),
        *(f"new: {note}" for note in found["new"]["notes"]),
    ]
