"""Computation: in which number formats a model is computed, and what its backward pass recomputes."""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fft.core.bounds import check_bounds

Format = Literal["float32", "bfloat16"]
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Computation:
    """How a model is computed. Parameters that are trained, their gradients and the optimizer are always float32."""

    compute: Format = "float32"
    """number format of products and hidden states; norms, softmax, heads and loss stay in float32"""
    base_dtype: Format = "float32"
    """number format of the matrices of an adapter's frozen base; bfloat16 halves their memory and rounds them"""
    remat: Literal["none", "full"] = "none"
    """what the backward pass computes again: nothing, or every block, which saves memory and costs time"""
    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_bounds(self)


PRECISE = Computation()
"""all in float32"""


def wide(dtype: DTypeLike) -> DTypeLike:
    """Return float32, or float64 for float64: the format of sums, norms and softmax over values of this `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def widened(tree: Tree) -> Tree:
    """Return the tree of arrays with bfloat16 ones as float32, which is exact; others are the same arrays."""
    return jax.tree.map(lambda leaf: leaf.astype(wide(leaf.dtype)), tree)
