"""The loss of predicted tokens: the same in chunks and whole, at the places alone, and as a mean over all of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.core.batch import Batch, weighted_sum
from fft.core.network import outputs_of
from fft.core.tree import flatten
from fft.stats.metrics import METRICS
from fft.tasks import Language, language
from fft.tasks.language import by_chunks
from tests.helpers.language_model import LanguageModel, decoder
from tests.helpers.next_token import next_token_nll

RNG = np.random.default_rng(0)


class Tiny(LanguageModel):
    """The tiny decoder, whose readout takes states of any places."""

    @staticmethod
    def states(params, batch, *, read=("tokens",), key=None, layers=()):
        return LanguageModel.states(params, batch)


def at_places(batch, places):
    """The batch with the targets and weights of some places [B, S] alone."""
    taken = (np.take_along_axis(np.asarray(values), places, axis=1) for values in (batch.targets, batch.weight))
    targets, weight = taken
    return batch._replace(targets=targets, weight=weight, places=places)


def limited(monkeypatch, size):
    """Let parts of `size` places be computed at once, and no more."""
    for name in ("WHOLE", "CHUNK"):
        monkeypatch.setattr(language, name, size)


def loss(params, batch, task):
    outputs = outputs_of(Tiny, params, batch, read=("tokens",))
    return weighted_sum(task.terms(outputs, batch), batch.weight) / jnp.sum(batch.weight)


def test_the_loss_is_that_of_every_next_token():
    params, batch = decoder()
    nll, weight = next_token_nll(Tiny.states(params, batch).tokens, batch.ids, batch.mask)
    weight = weight * (batch.weight.max(axis=1, keepdims=True) > 0)
    expected = jnp.sum(nll * weight) / jnp.sum(weight)
    np.testing.assert_allclose(loss(params, batch, Language()), expected, rtol=1e-6)


def test_places_alone_are_read():
    params, batch = decoder()
    places = np.array([[0, 2, 3], [1, 3, 0], [4, 0, 2], [0, 1, 2]], np.int32)
    some = at_places(batch, places)
    logits = Tiny.states(params, batch).tokens
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(batch.targets))
    chosen = np.take_along_axis(np.asarray(nll), places, axis=1)
    expected = np.sum(chosen * some.weight) / np.sum(some.weight)
    np.testing.assert_allclose(loss(params, some, Language()), expected, rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 27])
def test_chunks_change_neither_the_loss_nor_its_gradient(monkeypatch, chunk):
    params, batch = decoder()
    whole = jax.value_and_grad(loss)(params, batch, Language())
    limited(monkeypatch, chunk)
    parts = jax.value_and_grad(loss)(params, batch, Language())
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
    for path, leaf in flatten(whole[1]).items():
        np.testing.assert_allclose(
            flatten(parts[1])[path], leaf, atol=1e-6 * max(1.0, np.abs(leaf).max()), err_msg=path
        )


def test_chunks_are_of_equal_size_and_every_place_counts_once(monkeypatch):
    limited(monkeypatch, 4)
    sizes = []

    def double(states, values):
        sizes.append(states.shape[0])
        return 2 * values

    values = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
    found = by_chunks(double, jnp.zeros((3, 3, 2)), values)
    np.testing.assert_array_equal(found, 2 * values)
    assert set(sizes) == {3}


def test_the_score_of_a_row_is_the_sum_over_its_targets():
    params, batch = decoder()
    outputs = outputs_of(Tiny, params, batch, read=("tokens",))
    logits = np.asarray(outputs.tokens)
    nll = np.asarray(optax.softmax_cross_entropy_with_integer_labels(outputs.tokens, jnp.asarray(batch.targets)))
    right = (logits.argmax(-1) == batch.targets) * batch.weight
    for task, order in ((Language(), (0, 1)), (Language(metric="token_accuracy"), (1, 0))):
        found = np.asarray(task.score(outputs, batch))[:, order]
        np.testing.assert_allclose(found[:, 0], (nll * batch.weight).sum(1), rtol=1e-6)
        np.testing.assert_array_equal(found[:, 1], right.sum(1))
    counts = batch.weight.sum(axis=1)[:3]
    losses = Language().losses(Language().score(outputs, batch)[:3], counts)
    np.testing.assert_allclose(losses, (nll * batch.weight).sum(1)[:3] / counts, rtol=1e-6)


def test_the_mean_credit_is_minus_the_nats_a_token():
    scores = np.array([[4.0, 1.0], [9.0, 2.0], [2.0, 0.0]])
    counts = np.array([2, 5, 1])
    credit = Language().credit(jnp.asarray(scores), jnp.zeros((3, 1)), Language().scale(counts))
    np.testing.assert_allclose(-np.mean(credit), METRICS["nats"].function(counts, scores[:, 0]), rtol=1e-6)


def test_the_divergence_of_the_live_base_is_that_of_its_logits(monkeypatch):
    params, batch = decoder()
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    outputs, base = (outputs_of(Tiny, one, batch, read=("tokens",)) for one in (moved, params))
    expected = Language().divergence(base.tokens, outputs.tokens, 2.0)
    for chunk in (1000, 5):
        limited(monkeypatch, chunk)
        np.testing.assert_allclose(Language().divergences(base, outputs, batch, 2.0), expected, atol=1e-6)


def test_tokens_are_drawn_from_the_distribution_of_the_model():
    logits = jnp.asarray([[0.0, 2.0, -1.0, 1.0, -jnp.inf], [1.0, 1.0, 1.0, 1.0, 1.0]])
    draws = jax.vmap(lambda key: Language().sample(key, logits))(jax.random.split(jax.random.key(3), 20_000))
    shares = np.stack([np.bincount(np.asarray(draws)[:, row], minlength=5) / 20_000 for row in range(2)])
    expected = np.asarray(jax.nn.softmax(logits))
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / 20_000) and shares[0, 4] == 0


def test_metrics_are_ratios_of_sums():
    counts, sums = np.array([2, 8]), np.array([2.0, 4.0])
    assert METRICS["nats"].function(counts, sums) == pytest.approx(0.6)
    assert METRICS["perplexity"].function(counts, sums) == pytest.approx(np.exp(0.6))
    assert METRICS["bits_per_byte"].function(counts, sums) == pytest.approx(0.6 / np.log(2))
    assert METRICS["nats"].function(np.stack([counts, counts]), np.stack([sums, 2 * sums])).tolist() == [0.6, 1.2]


def test_a_batch_without_places_is_scored_at_every_token():
    params, batch = decoder()
    assert isinstance(batch, Batch) and batch.places is None
    every = np.broadcast_to(np.arange(7, dtype=np.int32), (4, 7))
    np.testing.assert_allclose(
        loss(params, at_places(batch, every), Language()), loss(params, batch, Language()), rtol=1e-6
    )
