"""Attention with grouped queries against a plain loop over rows, heads and tokens; in parts as in one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.models.grouped import LEAST, PARTS, attend, attend_before, spans
from fft.models.reach import allowed_keys

B, G, R, K, SCALE, CAP = 2, 2, 3, 4, 0.5, 2.0


def arrays(tokens, keys, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (B, tokens, G * R, K), (B, keys, G, K), (B, keys, G, K)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def by_loop(query, key, value, allowed, cap):
    out = np.zeros((B, query.shape[1], G * R, K))
    for b, t, head in np.ndindex(*out.shape[:3]):
        seen = np.flatnonzero(allowed[b, t])
        scores = SCALE * key[b, seen, head // R].astype(np.float64) @ query[b, t, head]
        scores = scores if cap is None else cap * np.tanh(scores / cap)
        weights = np.exp(scores - scores.max())
        out[b, t, head] = weights / weights.sum() @ value[b, seen, head // R]
    return out.reshape(B, -1, G * R * K)


@pytest.mark.parametrize("cap", [None, CAP])
def test_heads_of_a_group_share_their_keys(cap):
    query, key, value = arrays(5, 7)
    allowed = np.random.default_rng(1).random((B, 5, 7)) < 0.5
    allowed[..., 0] = True
    found = attend(query, key, value, allowed, SCALE, cap)
    np.testing.assert_allclose(found, by_loop(query, key, value, allowed, cap), atol=1e-6)


@pytest.mark.parametrize("window", [None, 50, 300])
@pytest.mark.parametrize("tokens", [LEAST - 1, LEAST + 1, PARTS * LEAST + 8])
def test_parts_give_what_the_whole_row_gives(tokens, window):
    """Values and gradients of packed texts; the tokens of a part see no key outside its span."""
    query, key, value = arrays(tokens, tokens)
    segments = jnp.asarray(np.sort(np.random.default_rng(2).integers(1, 4, (B, tokens)), axis=1))
    allowed = allowed_keys(segments, window, causal=True)

    def whole(q, k, v):
        return attend(q, k, v, allowed, SCALE, CAP)

    def parts(q, k, v):
        return attend_before(q, k, v, allowed, SCALE, CAP, window)

    weight = np.random.default_rng(3).normal(size=(B, tokens, G * R * K))
    (one, slopes), (other, own) = (
        jax.jit(jax.value_and_grad(lambda *a, f=f: jnp.sum(weight * f(*a)), (0, 1, 2)))(query, key, value)
        for f in (whole, parts)
    )
    np.testing.assert_allclose(parts(query, key, value), whole(query, key, value), atol=1e-6)
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-4)
    for found, wanted in zip(own, slopes, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, LEAST, LEAST + 1, 1000, 5000])
def test_the_parts_of_a_row_are_few_and_cover_it(tokens):
    made = list(spans(tokens, window=None))
    assert len(made) <= PARTS and [rows.start for rows, _ in made[1:]] == [rows.stop for rows, _ in made[:-1]]
    assert made[0][0].start == 0 and made[-1][0].stop == tokens
    assert all(keys == slice(0, rows.stop) for rows, keys in made)
