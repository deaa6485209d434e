"""IA3: trained vectors rescale keys, values and the MLP's inner activations; the kernels are frozen."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.tree import Params, flatten, unflatten
from fft.methods.base import Method
from fft.methods.parts import Parts
from fft.methods.targets import targeted
from fft.methods.trees import Tree, copied_heads

READERS = ("out", "down")
IN, OUT = "ia3_in", "ia3_out"


@dataclass(frozen=True)
class IA3(Method):
    """y' = l ⊙ (x·W + b) for the roles query, key, value, gate and up; y' = (l ⊙ x)·W + b for out and down.

    `out` and `down` read the inner activations of attention and MLP, so their inputs are rescaled. With l [out] the
    merged layer has the kernel W·diag(l) and the bias l ⊙ b, with l [in] the kernel diag(l)·W. l starts at 1, so step 0
    is the base; heads are trained fully.

    Reference: Liu et al. 2022, arXiv 2205.05638, section 3.3.
    """

    name: ClassVar[str] = "ia3"
    targets: str = "key,value,down"
    """roles (query, key, value, out, gate, up, down) and parts of blocks (attention, mlp), comma-separated; or
    all-linear; or a pattern over module paths"""

    def parts(self) -> Parts:
        return Parts(tree=Tree(self._init, _merge), lr=3e-3)

    def modules(self, paths: Iterable[str]) -> list[str]:
        """Return the paths of the modules (a kernel's path without `/kernel`) that get a vector."""
        return targeted(self.targets, paths, "ia3.targets")

    def _init(self, base: Params, key: jax.Array) -> Params:
        leaves, theta = flatten(base), copied_heads(base)
        for module in self.modules(leaves):
            fan_in, fan_out = leaves[f"{module}/kernel"].shape
            reads = module.rpartition("/")[2] in READERS
            theta[f"{module}/{IN if reads else OUT}"] = jnp.ones(fan_in if reads else fan_out)
        return unflatten(theta)


def _merge(base: Params, theta: Params) -> Params:
    merged = flatten(base)
    for path, leaf in flatten(theta).items():
        module, _, name = path.rpartition("/")
        if name == IN:
            merged[f"{module}/kernel"] = merged[f"{module}/kernel"] * leaf[:, None]
        elif name == OUT:
            merged[f"{module}/kernel"] = merged[f"{module}/kernel"] * leaf
            if f"{module}/bias" in merged:
                merged[f"{module}/bias"] = merged[f"{module}/bias"] * leaf
        else:
            merged[path] = leaf
    return unflatten(merged)
