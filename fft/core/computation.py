"""Computation: in which number formats a model is computed, and what its backward pass recomputes."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from fft.core.bounds import check_bounds
from fft.core.tree import Params

Format = Literal["float32", "bfloat16"]


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


def widened(tree: Params) -> Params:
    """Return the tree with bfloat16 leaves as float32, which is exact; others are the same arrays."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)
