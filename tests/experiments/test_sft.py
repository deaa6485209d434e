"""The data of the benchmark against TRL; that needs no TRL."""

import numpy as np
import pytest

from experiments.benchmarks.sft import STEPS, T, data, our_rows, supervised
from fft.data import PackedBatches, load_tokenizer


@pytest.mark.parametrize(("part", "least", "most"), [("completions", 0.2, 0.3), ("whole", 0.95, 1.0)])
def test_share_of_supervised_tokens(smollm2, part, least, most):
    tokenizer = load_tokenizer(smollm2)
    rows, encoded = data(part, tokenizer)
    counted, tokens = supervised(encoded)
    assert least <= counted / tokens <= most
    assert len(rows) == len(encoded.ids), "no text is cut into several"
    batches = PackedBatches(encoded, 1, 0, T, tokenizer.pad_id)
    assert len(batches) == STEPS and batches.fill > 0.95
    assert sum(batches.batch(at).weight.sum() for at in range(STEPS)) == counted
    first, *_ = our_rows(encoded)
    text = "".join(rows[0].values())
    assert tokenizer.backend.decode(list(first[0]), skip_special_tokens=True) == text
    learned = [token for token in first[1] if token >= 0]
    assert text.endswith(tokenizer.backend.decode(learned, skip_special_tokens=True))
    assert learned[-1] == first[0][-1] == tokenizer.vocabulary["<|im_end|>"]
    assert np.array_equal(first[0][-len(learned) :], learned), "they are the last tokens"
