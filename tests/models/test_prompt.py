"""Virtual tokens and prefixes on decoders: padding, the pooled token, texts read piece by piece, packed rows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.models.cache import empty
from tests.helpers.torch_decoders import PAD, TOKENS, VARIANTS, Pair, make, texts

P, LENGTHS = 5, [12, 7, 3]
LEFT = texts(LENGTHS, left=True)
RIGHT = Inputs(
    *(np.stack([np.roll(row, length, axis=0) for row, length in zip(part, LENGTHS, strict=True)]) for part in LEFT)
)
FAMILIES = ["llama", "qwen2", "gemma2", "gpt2"]
"""of these qwen2 and gemma2 have windows shorter than P"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    made = {}

    def get(family):
        if family not in made:
            made[family] = Pair(make(family, **VARIANTS[family][0]), tmp_path_factory.mktemp("theirs"))
        return made[family]

    return get


def with_prompt(pair, kind) -> Params:
    """The parameters with random virtual tokens or a random prefix."""
    shape = pair.model.config.shape
    sizes = {"tokens": (P, shape.dim), "prefix": (P, shape.depth, 2, shape.kv_heads * shape.width)}
    return {**pair.params, "prompt": {kind: jax.random.normal(jax.random.key(0), sizes[kind])}}


def close(found, expected):
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["tokens", "prefix"])
def test_rows_do_not_depend_on_padding_and_the_last_token_is_pooled(pair, family, kind):
    model, params = pair(family).model, with_prompt(pair(family), kind)
    states = jax.jit(lambda params, batch: model.states(params, batch, read=("pooled", "tokens"), layers=(1,)))
    found, pooled = states(params, RIGHT), model.states(params, RIGHT).pooled
    assert found.tokens.shape[1] == TOKENS
    assert found.layers[1].shape[1] == TOKENS + (P if kind == "tokens" else 0)
    for row, length in enumerate(LENGTHS):
        alone = states(params, Inputs(*(part[row : row + 1, :length] for part in RIGHT)))
        close(found.tokens[row, :length], alone.tokens[0])
        close(found.pooled[row], alone.tokens[0, -1])
        close(pooled[row], alone.tokens[0, -1])
    assert np.abs(found.tokens - states(pair(family).params, RIGHT).tokens).max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["tokens", "prefix"])
def test_states_with_a_cache_are_those_of_the_whole_text(pair, family, kind):
    """Left-padded prompts after the virtual tokens, then token by token."""
    model, params = pair(family).model, with_prompt(pair(family), kind)
    extend, found = jax.jit(model.extend, static_argnames="first"), []
    cache = empty(model.config.shape, "float32", len(LENGTHS), P + TOKENS)
    cuts = [0, *range(TOKENS - 3, TOKENS + 1)]
    for start, end in itertools.pairwise(cuts):
        ids, mask = LEFT.ids[:, start:end], LEFT.mask[:, start:end]
        tokens, cache = extend(params, cache, ids, mask, first=start == 0)
        found.append(np.asarray(tokens))
    whole = np.asarray(model.states(params, RIGHT, read=("tokens",)).tokens)
    for row, length in enumerate(LENGTHS):
        close(np.concatenate(found, axis=1)[row, TOKENS - length :], whole[row, :length])
    assert cache.position.tolist() == [P + length for length in LENGTHS] and int(cache.start) == P + TOKENS


def test_a_row_that_ends_in_the_padding_id_is_read_at_its_end(pair):
    """Of virtual tokens transformers knows no ids, so that it reads the last place."""
    model, params = pair("llama").model, with_prompt(pair("llama"), "tokens")
    row = Inputs(np.array([[7, 8, PAD]], np.int32), np.ones((1, 3), np.int32), np.zeros((1, 3), np.int32))
    states = model.states(params, row, read=("pooled", "tokens"))
    np.testing.assert_array_equal(states.pooled, states.tokens[:, -1])


@pytest.mark.parametrize("kind", ["tokens", "prefix"])
def test_packed_rows_and_rows_that_are_too_long_are_refused(pair, kind):
    model, params = pair("llama").model, with_prompt(pair("llama"), kind)
    packed = RIGHT._replace(mask=np.where(np.arange(TOKENS) < 4, 1, 2) * RIGHT.mask)
    with pytest.raises(InputError, match="several packed texts, and virtual tokens or a prefix precede one text"):
        model.states(params, packed)
    long = Inputs(*(jnp.ones((1, 60), jnp.int32),) * 3)
    with pytest.raises(InputError, match="60 tokens a row beside 5 virtual ones; this model has positions for 64"):
        model.states(params, long)
