"""Trees in fewer bytes: the error of every number, and the bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.errors import InputError
from fft.fisher.storage import BLOCK, pack, unpack


def squared_gradients(*shape):
    """Non-negative numbers over ten powers of ten."""
    rng = np.random.default_rng(0)
    return jnp.asarray(10 ** rng.uniform(-12, -2, shape), jnp.float32)


TREE = {"a": {"kernel": squared_gradients(33, 20), "bias": squared_gradients(7)}, "scale": squared_gradients()}


def test_float32_is_the_tree_itself_and_bfloat16_rounds_to_eight_bits():
    kept = unpack(pack(TREE, "float32"))
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), kept, TREE))
    rounded = unpack(pack(TREE, "bfloat16"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2**-8), rounded, TREE)
    assert rounded["a"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 5])
def test_eight_bits_keep_the_root_to_half_a_step_of_the_blocks_largest(size):
    numbers = squared_gradients(size)
    packed = pack({"a": numbers}, "int8")
    assert packed["a"]["codes"].dtype == jnp.uint8 and packed["a"]["codes"].shape == (size,)
    back = np.asarray(jax.jit(unpack)(packed)["a"], np.float64)
    for start in range(0, size, BLOCK):
        block, got = (np.asarray(x, np.float64)[start : start + BLOCK] for x in (numbers, back))
        assert (np.abs(np.sqrt(got) - np.sqrt(block)) <= np.sqrt(block.max()) * (0.5 / 255 + 1e-6)).all()
        np.testing.assert_allclose(got.max(), block.max(), rtol=1e-6)


def test_a_block_of_zeros_stays_zero():
    assert not np.asarray(unpack(pack({"a": jnp.zeros((3, 5))}, "int8"))["a"]).any()


def test_the_bytes():
    def size(storage):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(pack({"a": squared_gradients(64, 256)}, storage)))

    assert [size(storage) / (64 * 256) for storage in ("float32", "bfloat16", "int8")] == [4, 2, 1 + 4 / BLOCK]


def test_an_unknown_storage_is_refused():
    with pytest.raises(InputError, match="known are float32, bfloat16, int8"):
        pack(TREE, "int4")
