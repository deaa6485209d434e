"""Texts read piece by piece with a cache: the states are those of the whole text, in every generative family."""

import jax
import numpy as np
import pytest

from fft import models
from fft.core.batch import Inputs
from fft.core.computation import Computation
from fft.models.cache import empty
from fft.models.families import gemma3
from tests.helpers.torch_decoders import CASES, TOKENS, VARIANTS, Pair, make, texts

LENGTHS = [12, 7, 3]
LEFT = texts(LENGTHS, left=True)
RIGHT = Inputs(
    *(np.stack([np.roll(row, length, axis=0) for row, length in zip(part, LENGTHS, strict=True)]) for part in LEFT)
)


def pieces(model, params, inputs, cuts, slots=TOKENS + 2):
    """States [B, T, D] of the texts read in pieces that end at the cuts, and the cache."""
    extend, found = jax.jit(model.extend), []
    cache = empty(model.config.shape, model.computation.compute, len(inputs.ids), slots)
    for start, end in zip([0, *cuts], [*cuts, inputs.ids.shape[1]], strict=True):
        tokens, cache = extend(params, cache, inputs.ids[:, start:end], inputs.mask[:, start:end])
        found.append(np.asarray(tokens))
    return np.concatenate(found, axis=1), cache


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    made = {}

    def get(family, i):
        if (family, i) not in made:
            made[family, i] = Pair(make(family, **VARIANTS[family][i]), tmp_path_factory.mktemp("theirs"))
        return made[family, i]

    return get


def close(found, expected):
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("family, i", CASES)
def test_states_are_those_of_the_whole_text(pair, family, i):
    """Left-padded prompts at once, then token by token, beside a pass over the whole texts, padded right, and torch."""
    ours = pair(family, i)
    found, cache = pieces(ours.model, ours.params, LEFT, range(TOKENS - 5, TOKENS))
    whole, _ = ours.states(RIGHT)
    expected, _ = ours.expected(LEFT)
    for row, length in enumerate(LENGTHS):
        close(found[row, TOKENS - length :], whole[row, :length])
        close(found[row, TOKENS - length :], expected[row, TOKENS - length :])
    assert cache.position.tolist() == LENGTHS and int(cache.start) == TOKENS
    np.testing.assert_array_equal(cache.segments, np.pad(LEFT.mask, ((0, 0), (0, 2))))


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_row_does_not_depend_on_its_padding_and_neighbours(pair, family):
    ours = pair(family, 0)
    together, _ = pieces(ours.model, ours.params, LEFT, [9, 10, 11])
    alone, _ = pieces(ours.model, ours.params, Inputs(*(part[1:2, 5:] for part in LEFT)), [4, 5, 6], slots=7)
    close(together[1, 5:], alone[0])


def test_bfloat16_is_cached_as_such(pair):
    ours = pair("gemma3_text", 0).checkpoint
    coarse = models.computed(ours, Computation("bfloat16"))
    found, cache = pieces(coarse.model, coarse.params, LEFT, [8, 9, 10, 11])
    whole = np.asarray(coarse.model.states(coarse.params, LEFT, read=("tokens",)).tokens)
    assert found.dtype == np.float32 and {leaf.dtype.name for leaf in jax.tree.leaves(cache.layers)} == {"bfloat16"}
    real = LEFT.mask == 1
    assert np.abs(found - whole)[real].max() <= 2**-5 * np.abs(whole).max()


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "mistral", "smollm3"])
def test_a_layer_with_a_window_holds_no_more_slots(pair, family):
    """Read in chunks that wrap around its ring, longer and shorter than the window, after chunks of padding alone."""
    ours = pair(family, 0)
    whole, _ = ours.states(RIGHT)
    windows = [kind.window for kind in ours.model.config.shape.attention]
    assert any(window is not None and window < TOKENS for window in windows)
    for cuts in ([2, 5, 6], [3, 11], [1, 2, 3, 10]):
        found, cache = pieces(ours.model, ours.params, LEFT, cuts, slots=TOKENS)
        for row, length in enumerate(LENGTHS):
            close(found[row, TOKENS - length :], whole[row, :length])
        for i, window in enumerate(windows):
            slots = cache.layers["layers"][str(i)]["attention"]
            assert {leaf.shape[1] for leaf in slots.values()} == {window or TOKENS}


def test_memory_of_a_cache_with_windows():
    """Gemma 3 1B: 22 of 26 layers have a window of 512."""
    config = gemma3.Gemma3Config(num_hidden_layers=26, sliding_window=512, num_key_value_heads=1, head_dim=256)
    layers = jax.eval_shape(lambda: empty(config.shape, "float32", 1, 8192)).layers
    slots = sum(leaf.shape[1] for leaf in jax.tree.leaves(layers)) // 2
    assert slots == 22 * 512 + 4 * 8192 and slots / (26 * 8192) < 0.21


def test_a_full_cache_is_refused(pair):
    ours = pair("llama", 0)
    with pytest.raises(AssertionError, match="too few slots"):
        model = ours.model
        model.extend(ours.params, empty(model.config.shape, "float32", 3, TOKENS - 1), LEFT.ids, LEFT.mask)


def test_encoders_have_none(tmp_path):
    from tests.helpers.torch_language import make as make_language

    make_language("modernbert").save_pretrained(tmp_path)
    assert models.load(tmp_path, language=True).model.extend is None
