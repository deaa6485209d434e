"""Storage of a tree of non-negative numbers in fewer bytes: float32, bfloat16, or int8 in blocks.

int8 encodes the SQUARE ROOT of a number as a share of the largest in its block of BLOCK neighbours: Fisher information
is a squared gradient and spans many powers of ten, and the root halves their number. The relative error of code c is at
most 1/c, .4 % at the top of a block; below 3.8e-6 of the block's largest a number becomes 0. Blocks as in Dettmers et
al. 2022, arXiv 2110.02861.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from fft.core.errors import InputError
from fft.core.tree import Params, flatten, map_leaves, unflatten

Storage = Literal["float32", "bfloat16", "int8"]
BLOCK = 256
_PARTS = ("/codes", "/scales")


def pack(tree: Params, storage: str) -> Params:
    """Encode the tree; in int8 a leaf becomes {"codes": uint8 [leaf's shape], "scales": float32 [blocks]}.

    Raises: InputError for an unknown storage.
    """
    if storage == "int8":
        return map_leaves(lambda path, leaf: _coded(leaf), tree)
    if storage not in ("float32", "bfloat16"):
        raise InputError(f"unknown storage {storage!r}; known are float32, bfloat16, int8")
    return jax.tree.map(lambda leaf: leaf.astype(storage), tree)


def unpack(tree: Params) -> Params:
    """Decode a packed tree to float32, up to rounding; inside jit the numbers are decoded where they are used."""
    leaves = flatten(tree)
    plain = {path: leaf.astype(jnp.float32) for path, leaf in leaves.items() if not path.endswith(_PARTS)}
    coded = [path.removesuffix("/codes") for path in leaves if path.endswith("/codes")]
    return unflatten(plain | {path: _decoded(leaves[f"{path}/codes"], leaves[f"{path}/scales"]) for path in coded})


def _coded(leaf: jax.Array) -> dict[str, jax.Array]:
    flat = jnp.ravel(leaf).astype(jnp.float32)
    blocks = jnp.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
    scales = blocks.max(axis=1)
    shares = blocks / jnp.where(scales > 0, scales, 1.0)[:, None]
    codes = jnp.round(255 * jnp.sqrt(shares)).astype(jnp.uint8)
    return {"codes": codes.ravel()[: flat.size].reshape(leaf.shape), "scales": scales}


def _decoded(codes: jax.Array, scales: jax.Array) -> jax.Array:
    repeated = jnp.repeat(scales, BLOCK, total_repeat_length=scales.size * BLOCK)[: codes.size].reshape(codes.shape)
    return jnp.square(codes.astype(jnp.float32) / 255) * repeated
