"""Methods that change gradients and updates, through `fft tune` on the tiny base: resumed, saved, rejected."""

import json

import numpy as np
import pytest

from fft import models
from fft.commands.failures import UNFORESEEN
from fft.core.tree import flatten
from fft.disk.artefact import load_artefact
from tests.helpers.tiny_runs import at_event, fail, fft, outcome, record, tune

SHORT = ("--steps", 6, "--batch-size", 16, "--lr", 1e-2, "--tolerance", 1, "--eval-every", 3, "--keep", "latest")


def leaves(folder):
    return {path: np.asarray(leaf) for path, leaf in flatten(models.load(folder).params).items()}


@pytest.mark.parametrize(
    "flags",
    [
        ("--method", "lora+mas+agem+unfreeze", "--mas.samples", 16, "--unfreeze.every", 1),
        ("--method", "ogd+lwf", "--ogd.directions", 3),
    ],
    ids=lambda flags: flags[1],
)
def test_a_stopped_run_ends_in_the_same_bits(tiny, tmp_path, flags):
    whole, out = tmp_path / "whole", tmp_path / "run"
    answer = tune(tiny, whole, *SHORT, *flags)
    assert answer.code in (0, 4), answer.err

    with at_event("score", 6, fail):
        assert tune(tiny, out, *SHORT, *flags).code == UNFORESEEN
    again = tune(tiny, out, *SHORT, *flags)
    assert again.code in (0, 4) and "resuming at step 3 of 6" in again.err
    assert outcome(out) == outcome(whole)


def test_a_run_of_gpm_changes_only_dense_layers(tiny, tmp_path):
    out = tmp_path / "run"
    assert tune(tiny, out, *SHORT, "--method", "gpm", "--gpm.threshold", 0.9).code in (0, 4)
    before, after = leaves(tiny / "bert"), leaves(out / "model")
    moved = {path for path, leaf in before.items() if leaf.tobytes() != after[path].tobytes()}
    assert "layers/1/mlp/down/kernel" in moved and not [path for path in moved if "norm" in path or "embed" in path]
    assert any("input directions of 13 dense layers" in note for note in record(out)["notes"])


def test_sparse_reads_the_artefact_that_ewc_reads(tiny, tmp_path):
    fisher = tmp_path / "fisher"
    given = ("--model", tiny / "bert", "--original", tiny / "original.csv", "--samples", 16)
    assert fft("fisher", *given, "--out", fisher).code == 0
    flags = (*SHORT, "--method", "sparse+ewc", "--fisher", fisher, "--sparse.share", 0.2)
    answer = tune(tiny, tmp_path / "run", *flags, original=None)
    assert answer.code == 0, answer.err
    method = json.loads((tmp_path / "run" / "experiment.json").read_text())["method"]
    assert [member["fisher"] for member in method] == [str(fisher)] * 2
    mask = flatten(load_artefact(tmp_path / "run" / "prepared")[0]["sparse"])
    before, after = leaves(tiny / "bert"), leaves(tmp_path / "run" / "model")
    for path, chosen in mask.items():
        assert not (before[path] != after[path])[np.asarray(chosen) == 0].any(), path
    assert (before["pooler/kernel"] != after["pooler/kernel"]).any()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("gpm+lpft", "gpm and lpft each constrain the updates"),
        ("lora+ogd", "lora and ogd each set what is trained and how the model's parameters are made from it"),
        ("agem+replay", "agem replaces the gradient on the original rows, and replay needs"),
    ],
)
def test_chains_whose_members_conflict_are_rejected(tiny, tmp_path, method, message):
    answer = tune(tiny, tmp_path / "run", *SHORT, "--method", method)
    assert answer.code == 2 and message in answer.err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["mas", "agem", "ogd", "gpm", "sparse"])
def test_missing_original_data_are_named(tiny, tmp_path, method):
    answer = tune(tiny, tmp_path / "run", *SHORT, "--method", method, original=None)
    assert answer.code == 2 and "give --original" in answer.err and not (tmp_path / "run").exists()
