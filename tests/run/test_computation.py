"""Runs in bfloat16, on a rounded base and with recomputed blocks: resume, records, refusals."""

import json

import numpy as np
import pytest

import fft
from fft.core.computation import Computation
from fft.core.tree import flatten
from fft.experiment import Data, Experiment, from_json
from tests.helpers.tiny_runs import at_event, events, fail, outcome, record, refused, tune
from tests.helpers.tiny_runs import fft as command

FLAGS = ("--steps", 6, "--batch-size", 16, "--lr", 1e-2, "--tolerance", 1, "--eval-every", 3)
HALF = ("--compute", "bfloat16", "--remat", "full")


@pytest.fixture(scope="module")
def half(tiny, tmp_path_factory):
    """The folder of a run in bfloat16 with recomputed blocks."""
    out = tmp_path_factory.mktemp("half") / "run"
    assert tune(tiny, out, *FLAGS, *HALF).code == 0
    return out


def test_a_resumed_run_in_bfloat16_is_bit_equal(tiny, half, tmp_path):
    with at_event("save", 3, fail):
        assert tune(tiny, tmp_path / "run", *FLAGS, *HALF).code != 0
    assert tune(tiny, tmp_path / "run", *FLAGS, *HALF).code == 0
    assert outcome(tmp_path / "run") == outcome(half)


def test_the_formats_change_the_numbers_a_little_and_are_recorded(tiny, half, tmp_path):
    assert tune(tiny, tmp_path / "float32", *FLAGS).code == 0
    losses = [[e["loss"] for e in events(run) if e["event"] == "step"] for run in (tmp_path / "float32", half)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert "computation" not in json.loads((tmp_path / "float32" / "experiment.json").read_text())
    assert record(half)["experiment"]["computation"] == {
        "compute": "bfloat16",
        "base_dtype": "float32",
        "remat": "full",
    }


def test_the_model_of_a_run_on_a_rounded_base_is_the_one_that_was_scored(tiny, tmp_path):
    out = tmp_path / "run"
    assert tune(tiny, out, *FLAGS, "--method", "lora", "--base-dtype", "bfloat16").code == 0
    assert any("rounds the matrices of the base" in note for note in record(out)["notes"])
    restored, saved = fft.restore(out), fft.load(out / "model")
    for path, leaf in flatten(restored.params).items():
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), flatten(saved.params)[path], err_msg=path)
    held = command("eval", "--model", out, "--task", tiny / "new.csv", "--held-out", "--json").json
    assert held["score"] == pytest.approx(record(out)["new"]["after"])
    half = ("--compute", "bfloat16", "--json")
    assert command("eval", "--model", out, "--task", tiny / "new.csv", *half).json["score"] == pytest.approx(
        command("eval", "--model", out, "--task", tiny / "new.csv", "--json").json["score"], abs=0.02
    )


def test_a_base_that_is_trained_is_not_rounded(tiny, tmp_path):
    answer = tune(tiny, tmp_path / "run", *FLAGS, "--base-dtype", "bfloat16")
    refused(
        answer, "--base-dtype bfloat16 rounds the frozen base of an adapter, and full trains the base's own weights"
    )
    assert not (tmp_path / "run").exists()
    answer = tune(tiny, tmp_path / "run", *FLAGS, "--compute", "float16")
    assert answer.code == 2 and "invalid choice 'float16' for argument '--compute'" in answer.err


def test_experiments_without_the_setting_are_what_they_were(tiny):
    plain = Experiment(str(tiny / "bert"), Data("new.csv"))
    assert "computation" not in plain.to_json() and from_json(plain.to_json()) == plain
    half = Experiment(str(tiny / "bert"), Data("new.csv"), computation=Computation("bfloat16"))
    assert from_json(half.to_json()) == half != plain
    with pytest.raises(fft.InputError, match=r"experiment\.computation"):
        from_json({**half.to_json(), "computation": {"compute": "float8"}})
