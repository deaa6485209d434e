"""A task with a target for every token, from training to the verdict, alone and beside a task of classes."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Inputs
from fft.data.tokenize import load_tokenizer
from fft.run.restored import load_model
from tests.helpers import tagging
from tests.helpers.tiny_checkpoint import write_new
from tests.helpers.tiny_runs import fft, record

SHORT = ("--steps", 24, "--batch-size", 16, "--lr", "1e-2", "--eval-every", 12, "--max-length", 16, "--json")


@pytest.fixture(scope="module", autouse=True)
def tags():
    with tagging.registered():
        yield


@pytest.fixture(scope="module")
def tagged(tiny, tmp_path_factory, tags):
    """(folder of rows, run): a base that has learned tags, with no other head."""
    rows = tmp_path_factory.mktemp("tags")
    tagging.write_tags(rows / "tags.csv")
    tagging.write_tags(rows / "held.csv", seed=7)
    write_new(rows / "new.csv")
    flags = ("--new", rows / "tags.csv", "--new.kind", "tags", "--method", "full")
    answer = fft("tune", "--model", tiny / "bare", *flags, *SHORT, "--out", rows / "run")
    assert answer.code == 0, answer.err
    return rows, rows / "run"


def shares_right(folder, source, head):
    """Return (right, tokens) of every row of a file, row by row, without the package's batches, tasks and metrics."""
    checkpoint = load_model(str(folder))
    tokenizer, labels = load_tokenizer(checkpoint.folder), checkpoint.heads[head].labels
    with open(source, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    model, found = checkpoint.model, []

    @jax.jit
    def logits_of(params, ids):
        states = model.states(params, Inputs(ids, jnp.ones_like(ids), jnp.zeros_like(ids)), read=("tokens",))
        return model.readout(params, head, states.tokens)[0, 1:-1]

    for row in rows:
        ids = np.array([tokenizer.backend.encode(row["text"]).ids], np.int32)
        said = [labels[at] for at in np.asarray(logits_of(checkpoint.params, ids)).argmax(-1)]
        words = row["label"].split()
        found.append((sum(a == b for a, b in zip(said, words, strict=True)), len(words)))
    return np.array(found)


def test_a_token_task_is_learned_scored_and_kept_as_a_checkpoint(tagged):
    rows, run = tagged
    told = record(run)
    assert told["new"]["metric"] == "share_right" and told["new"]["after"] > 0.9
    answer = fft("eval", "--model", run / "model", "--task", rows / "held.csv", "--task.kind", "tags", "--json")
    right, tokens = shares_right(run / "model", rows / "held.csv", "new").sum(axis=0)
    assert answer.code == 0 and answer.json["score"] == pytest.approx(right / tokens, abs=1e-6)
    assert answer.json["n"] == 240 and answer.json["low"] < answer.json["score"] < answer.json["high"]


@pytest.fixture(scope="module")
def mixed(tagged):
    """A run that learned classes with every method that uses the targets or predictions of the original tags."""
    rows, run = tagged
    original = ("--original", rows / "tags.csv", "--original.kind", "tags", "--max-drop", "0.05")
    method = ("--method", "ewc+kl+lwf+replay", "--ewc.samples", 32, "--ewc.strength", 10)
    flags = ("--model", run / "model", "--new", rows / "new.csv", *original, *method)
    answer = fft("tune", *flags, *SHORT, "--out", rows / "mixed")
    assert answer.code in (0, 1, 4), answer.err
    return rows / "mixed"


def test_a_class_task_is_learned_while_tokens_are_held_under_a_contract(tagged, mixed):
    told = record(mixed)
    contract = told["contract"]
    assert contract["met"] and told["original"]["metric"] == "share_right" and told["new"]["metric"] == "accuracy"
    lines = [line for line in told["history"] if line["step"]]
    assert lines and all(np.isfinite([line["new"], line["original"]]).all() for line in lines)
    assert told["original"]["after"] > 0.9


def test_check_agrees_with_a_loop_over_rows(tagged, mixed):
    rows, run = tagged
    flags = ("--original", rows / "held.csv", "--original.kind", "tags", "--max-drop", "0.05", "--json")
    answer = fft("check", run / "model", mixed / "model", *flags)
    assert answer.code in (0, 1, 4), answer.err
    (found,) = answer.json["original"]
    for side, folder in (("before", run), ("after", mixed)):
        right, tokens = shares_right(folder / "model", rows / "held.csv", "new").sum(axis=0)
        assert found["change"][side] == pytest.approx(right / tokens, abs=1e-6)


def test_a_head_of_tokens_is_fitted_on_a_base_without_one(tiny, tagged, tmp_path):
    rows, _ = tagged
    original = ("--original", rows / "tags.csv", "--original.kind", "tags", "--original-head", "fit")
    short = (*SHORT[:-1], "--steps", 2, "--json")
    answer = fft(
        "tune",
        "--model",
        tiny / "bare",
        "--new",
        rows / "new.csv",
        *original,
        "--method",
        "full",
        *short,
        "--out",
        tmp_path / "r",
    )
    assert answer.code in (0, 1, 4), answer.err
    told = record(tmp_path / "r")
    assert any("was fitted on the frozen base" in note for note in told["notes"])
    assert told["original"]["before"] > 0.6


def test_diagnose_and_repair_take_tokens_as_they_take_classes(tagged, mixed, tmp_path):
    rows, run = tagged
    original = ("--original", rows / "tags.csv", "--original.kind", "tags", "--json")
    told = fft("diagnose", run / "model", mixed / "model", *original, "--fisher-rows", 16, "--out", tmp_path / "d")
    assert told.code == 0, told.err
    found = told.json["change"]
    of_run = record(mixed)["original"]
    assert (found["before"], found["after"]) == (of_run["before"], of_run["after"])
    new = ("--new", rows / "new.csv", "--max-drop", "0.05")
    repaired = fft("repair", run / "model", mixed, *original, *new, "--out", tmp_path / "r")
    assert repaired.code in (0, 1, 4), repaired.err
    assert repaired.json["margin"] == pytest.approx(0.05) and repaired.json["rows"]["original"] > 0
