"""Inverse frequencies, rotations at long positions, and the border of longrope, against transformers."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from fft.core.batch import Inputs
from fft.models.rope import KINDS, Rope, lengths, table
from tests.helpers import torch_decoders as oracle

LONG = 4096
TYPES = {
    **oracle.ROPES,
    "yarn with all fields": oracle.YARN,
    "yarn without original": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0},
    "llama3.1": {**oracle.LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 8192},
    "llama3.2": {**oracle.LLAMA3, "factor": 32.0, "rope_theta": 5e5, "original_max_position_embeddings": 8192},
}
FOR_LONG = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0},
    "llama3": {**oracle.LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 256},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 256},
}
SHALLOW = {"num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": LONG}


def ours(given, width, positions):
    return Rope(**{"width": width, "max_positions": positions, **given})


def theirs(given, width, positions, seq_len=None):
    config = LlamaConfig(
        head_dim=width,
        hidden_size=width,
        num_attention_heads=1,
        max_position_embeddings=positions,
        rope_parameters=dict(given),
    )
    if given["rope_type"] == "default":
        return LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[given["rope_type"]](config, torch.device("cpu"), seq_len=seq_len)


def check_frequencies(ours, theirs, scale, expected_scale):
    """One unit in the last place of the power, from which torch's own rounding differs in under 1 % of the cases."""
    theirs = theirs.numpy()
    assert ours.dtype == theirs.dtype == np.float32
    assert (np.abs(ours - theirs) <= np.float32(2**-23) * theirs).all()
    assert scale == pytest.approx(expected_scale, rel=1e-12)


@pytest.mark.parametrize("name", TYPES)
def test_inverse_frequencies(name):
    for width in (6, 10, 64, 96, 128, 256):
        rope = ours(TYPES[name], width, 131_072)
        (frequencies, scale), expected = KINDS[rope.rope_type](rope), theirs(TYPES[name], width, 131_072)
        check_frequencies(frequencies, expected[0], scale, expected[1])


@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6, 2e6, 5e6])
def test_frequencies_of_published_bases_are_nearly_all_the_same_bits(theta):
    given = {"rope_type": "default", "rope_theta": theta}
    pairs = [(KINDS["default"](ours(given, width, 64))[0], theirs(given, width, 64)[0]) for width in (64, 80, 128, 256)]
    same = np.concatenate([own == other.numpy() for own, other in pairs])
    assert same.mean() > 0.97


@pytest.mark.parametrize("name", FOR_LONG)
def test_long_positions(name, tmp_path):
    """At 4,096 tokens, 16 times the original positions, where types differ in every entry of the states."""
    both = oracle.Pair(oracle.make("llama", **SHALLOW, rope_parameters=FOR_LONG[name]), tmp_path)
    compare(both, oracle.texts([LONG], LONG), 1e-5)


def compare(both, inputs, tolerance):
    tokens, _ = both.states(inputs)
    states, _ = both.expected(inputs)
    error = np.abs(tokens - states).max() / max(1, np.abs(states).max())
    print(f"{both.model.family} {inputs.ids.shape[1]}: {error:.1e}")
    assert error <= tolerance, error


@pytest.mark.parametrize("family", oracle.FAMILIES)
def test_long_positions_of_each_family(family, tmp_path):
    sizes = {"max_position_embeddings": 1024, "num_attention_heads": 2}
    if family == "gpt2":
        sizes = {"n_positions": 1024, "n_head": 2}
    both = oracle.Pair(oracle.make(family, **{**oracle.VARIANTS[family][0], **sizes}), tmp_path)
    compare(both, oracle.texts([1024], 1024), 1e-5)


FACTORS = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 8,
    "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 7.0, 9.0],
}


@pytest.mark.parametrize("extra", [{}, {"factor": 3.0}, {"factor": 0.5}, {"attention_factor": 1.3}])
def test_longrope_on_each_side_of_the_border(extra, tmp_path):
    both = oracle.Pair(oracle.make("llama", num_hidden_layers=1, rope_parameters=FACTORS | extra), tmp_path)
    for length in (8, 9):  # rows of one batch in torch are all short or all long
        inputs = oracle.texts([length, length - 7])
        for row in (0, 1):
            one = Inputs(*(field[row : row + 1] for field in inputs))
            tokens, _ = both.states(one)
            states, _ = both.expected(one)
            np.testing.assert_allclose(tokens[one.mask == 1], states[one.mask == 1], atol=1e-5 * np.abs(states).max())


def test_longrope_is_chosen_by_the_length_of_each_segment():
    rope = Rope(
        width=10, max_positions=64, **{name: tuple(v) if isinstance(v, list) else v for name, v in FACTORS.items()}
    )
    positions = np.array([[*range(9), *range(3), *range(8)]], np.int32)
    np.testing.assert_array_equal(lengths(positions), [[9] * 9 + [3] * 3 + [8] * 8])
    cosines, sines = table(rope, positions)
    for start, length, name in ((0, 9, "long_factor"), (9, 3, "short_factor"), (12, 8, "short_factor")):
        expected, scale = theirs(FACTORS, 10, 64, seq_len=length)
        angles = np.arange(length)[:, None] * expected.numpy()
        np.testing.assert_allclose(cosines[0, start : start + length], np.cos(angles) * scale, atol=3e-6, err_msg=name)
        np.testing.assert_allclose(sines[0, start : start + length], np.sin(angles) * scale, atol=3e-6, err_msg=name)
