"""The notes of a run on the model that it writes."""

import numpy as np
import pytest

from fft.run.outcome import rounding_note

BASE = {"embed": {"word": np.array([1.0, 2.0, 0.5], np.float32)}, "heads": {"new": np.zeros(2, np.float32)}}


def moved(by, head):
    """The base with its embeddings moved, and its head at other values."""
    return {"embed": {"word": BASE["embed"]["word"] + np.array(by, np.float32)}, "heads": {"new": np.float32(head)}}


@pytest.mark.parametrize(
    ("dtype", "by", "head", "counted"),
    [
        ("bfloat16", [1e-3, 0, 0], [0, 0], "1 of 1 weight that training changed is"),
        ("bfloat16", [1e-3, 0.1, 0], [1e-3, 0], "1 of 3 weights that training changed is"),
        ("bfloat16", [0.1, 0.1, 0.1], [1e-30, 1], "0 of 5 weights that training changed are"),
        ("float16", [1e-3, 1e-4, 1e-4], [1e-9, 0], "3 of 4 weights that training changed are"),
    ],
)
def test_updates_that_rounding_takes_back_are_counted(dtype, by, head, counted):
    (note,) = rounding_note(BASE, moved(by, head), dtype)
    assert f"{counted} the same once rounded to {dtype}" in note
    assert f"model/ holds them in {dtype}" in note


def test_nothing_is_counted_where_nothing_is_rounded_or_changed():
    assert rounding_note(BASE, moved([1e-9, 0, 0], [0, 0]), "float32") == ()
    (note,) = rounding_note(BASE, moved([0, 0, 0], [0, 0]), "bfloat16")
    assert note == "the scores are of the float32 weights, model/ holds them in bfloat16, as the base is stored"
