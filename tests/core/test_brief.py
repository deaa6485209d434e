"""The short __repr__ of values with many arrays."""

import numpy as np

import fft
from fft import models
from fft.adapters.adapter import Adapter
from fft.core.brief import brief
from fft.data.encoded import Encoded
from fft.methods import LoRA
from fft.models.model import Head
from fft.run.claim import Run
from tests.helpers import tiny_checkpoint


def test_arrays_are_counted_and_long_values_are_cut():
    theta = {"a": np.zeros((3, 4)), "b": {"c": np.zeros(5), "d": [np.ones(2)]}}
    shown = repr(Adapter(LoRA(), theta, {"new": Head("regression", ())}, "new"))
    assert "theta=3 arrays of 19 numbers" in shown and "Head(kind='regression', labels=())" in shown
    rows = Encoded([np.zeros(7, np.int32)] * 1000, [np.zeros(7, np.int32)] * 1000, np.zeros(1000), np.arange(1000))
    assert "ids=1,000 arrays of 7,000 numbers" in repr(rows) and "labels=float64[1000]" in repr(rows)
    assert "task=None" in repr(rows) and brief(rows) == repr(rows)
    run = Run("runs/1", {f"name {number}": "x" * 40 for number in range(50)})
    assert len(repr(run)) < 250 and "(50 in all)" in repr(run)


def test_a_checkpoint_fits_a_screen(tmp_path):
    checkpoint = models.load(tiny_checkpoint.write_checkpoint(tmp_path / "base"))
    shown = repr(checkpoint)
    assert len(shown) < 1000 and "array(" not in shown and "params=" in shown and "states=states" in shown
    assert len(repr(fft.Adapters(checkpoint, {}))) < 1100
