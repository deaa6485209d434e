"""Logits of many rows: in order, without filler rows, by one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import States
from fft.evaluate.predict import predict, score_batch
from fft.evaluate.predictor import make_predict
from fft.tasks.classify import Classify
from tests.helpers.language_rows import texts
from tests.helpers.tiny_tasks import encoded
from tests.helpers.toy import toy_batch


class Linear:
    """A stand-in for a model: the logits of one head are ids @ kernel."""

    traces = 0

    def states(self, params, batch, *, read=("pooled",), key=None, layers=()):
        assert key is None
        Linear.traces += 1
        return States(batch.ids)

    def readout(self, params, head, states, *, key=None):
        assert key is None
        return states @ params["kernel"] if head == "new" else states * 0


def batches(rows, order, size):
    for start in range(0, len(order), size):
        index = order[start : start + size]
        ids = np.full((size, rows.shape[1]), 99.0, np.float32)
        ids[: len(index)] = rows[index]
        weight = (np.arange(size) < len(index)).astype(np.float32)
        yield toy_batch(rows=size)._replace(ids=ids, weight=weight), index


def test_predict_puts_every_example_in_its_place_and_drops_the_filler():
    rng = np.random.default_rng(0)
    rows, kernel = rng.normal(size=(11, 5)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    order = rng.permutation(11)
    f = make_predict(Linear(), Classify("new", ("a", "b", "c")))
    polls = []
    before = Linear.traces
    logits = predict(f, {"kernel": jnp.asarray(kernel)}, batches(rows, order, 4), 11, lambda: polls.append(1))
    assert isinstance(logits, np.ndarray)
    np.testing.assert_allclose(logits, rows @ kernel, atol=1e-5)
    predict(f, {"kernel": jnp.asarray(kernel)}, batches(rows, order, 4), 11)
    assert len(polls) == 3
    assert Linear.traces == before + 1, "one compilation for all batches and both calls"


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 3, 3], []])
def test_predict_refuses_batches_that_miss_or_repeat_an_example(order):
    f = jax.jit(lambda params, batch: batch.ids)
    with pytest.raises(ValueError, match="cover 4 examples once each"):
        predict(f, {}, batches(np.zeros((4, 2), np.float32), np.array(order, int), 2), 4)


def test_long_rows_whose_tokens_are_predicted_are_scored_in_smaller_batches():
    assert [score_batch(texts([9]), lengths) for lengths in ((9, 64), (64, 1024), (8192,))] == [16, 4, 1]
    assert score_batch(texts([9]), (9,), 32) == 32 and score_batch(encoded([9]), (1024,)) == 16
