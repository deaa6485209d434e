"""The cached results of experiments."""

import dataclasses
import json
import shutil

import pytest

from experiments.cached import cached_runs
from fft.experiment import Data, Experiment, Optim


@pytest.fixture
def made(tiny, tmp_path):
    """Two experiments on a copy of the tiny base, in a folder that says what it is."""
    shutil.copytree(tiny / "bert", tmp_path / "base-1" / "model")
    new, original = Data(str(tiny / "new.csv")), Data(str(tiny / "original.csv"))
    first = Experiment(str(tmp_path / "base-1" / "model"), new, original, optim=Optim(lr=1e-3, steps=2))
    return {f"seed{seed}": dataclasses.replace(first, seed=seed) for seed in (0, 1)}


def test_a_run_that_is_in_the_file_is_not_run_again(made, tmp_path):
    out, results = tmp_path / "runs", tmp_path / "results.json"
    ran = []

    def finish(experiment, folder, record):
        assert (folder / "model").is_dir()
        ran.append(experiment.seed)
        return record | {"kept_step": "finished"}

    first = next(cached_runs(made, out, results, finish))  # and killed here
    assert list(first) == ["seed0"] and list(json.loads(results.read_text())) == ["seed0"]
    counts = [len(records) for records in cached_runs(made, out, results, finish)]
    assert counts == [1, 2] and ran == [0, 1] and not list(out.iterdir())
    held = json.loads(results.read_text())
    assert held["seed1"]["experiment"]["model"] == "base-1" and 50 < held["seed1"]["percent_trained"] < 100
    assert held["seed0"]["kept_step"] == "finished" and 0 <= held["seed0"]["original"]["after"] <= 1

    *_, again = cached_runs(made, out, results, finish)
    assert ran == [0, 1] and again == held

    made["seed0"] = dataclasses.replace(made["seed0"], optim=Optim(lr=2e-3, steps=2))
    *_, changed = cached_runs(made, out, results, finish)
    assert ran == [0, 1, 0], "only the changed one is measured again"
    assert changed["seed0"]["experiment"]["optim"]["lr"] == 2e-3 and changed["seed1"] == held["seed1"]
