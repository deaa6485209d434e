"""Rows of a language task with random tokens."""

import numpy as np

from fft.data.sequences import Tokens, encoded, whole


def texts(lengths, share=1.0, seed=0):
    """Texts of so many inputs, a share of whose tokens is supervised, at least one."""
    rng = np.random.default_rng(seed)
    examples = []
    for length in lengths:
        ids = rng.integers(1, 61, length + 1).astype(np.int32)
        supervised = np.arange(length + 1) >= min(length, 1 + round((1 - share) * length))
        examples.append([Tokens(ids, supervised) if share < 1 else whole(ids)])
    return encoded(examples, np.array([example[0].targets for example in examples]), range(len(examples)))
