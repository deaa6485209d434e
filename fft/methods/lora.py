"""LoRA: train a low-rank update of some kernels; the base is frozen."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.bounds import Count, DropShare, NonNegative
from fft.core.errors import InputError
from fft.core.tree import Params, flatten, overlay, unflatten
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.parts import Parts
from fft.methods.targets import targeted
from fft.methods.trees import Tree, copied_heads

A, B = "lora_a", "lora_b"


@dataclass(frozen=True)
class LoRA(Method):
    """W' = W + (α/R) A·B  with A [in, R], B [R, out]; heads are trained fully.

    A starts uniform in ±1/√in, B at zero, so step 0 is the base. The adapter changes the scores of the original task;
    without the adapter, the model is the base bit for bit.

    Dropout: in merged form one mask per step drops rows of A, that is, inputs. PEFT masks each token's input
    separately, which no merged weight can express; `factored` applies A and B separately and does the same.

    Reference: Hu et al. 2021, arXiv 2106.09685, section 4.1.
    """

    name: ClassVar[str] = "lora"
    rank: Count = 8
    """R"""
    alpha: NonNegative = 16.0
    """α, which sets the scale s of the update"""
    dropout: DropShare = 0.0
    """probability of dropping an input of the adapter in training"""
    targets: str = "query,value"
    """roles (query, key, value, out, gate, up, down) and parts of blocks (attention, mlp), comma-separated; or
    all-linear; or a pattern over module paths"""
    factored: bool = False
    """apply A and B as a side path instead of adding A·B to the kernel"""

    def parts(self) -> Parts:
        return Parts(tree=Tree(self._init, self._merge, self._inject), lr=5e-4, check=self._check)

    @property
    def scale(self) -> float:
        """s = α/R."""
        return self.alpha / self.rank

    def modules(self, paths: Iterable[str]) -> list[str]:
        """Return the paths of the modules (a kernel's path without `/kernel`) that get an update."""
        return targeted(self.targets, paths, f"{self.name}.targets")

    def _check(self, context: Context) -> None:
        """Reject a rank R above that of every kernel.

        Raises: InputError.
        """
        leaves = flatten(context.base)
        most = max(min(leaves[f"{module}/kernel"].shape) for module in self.modules(leaves))
        if self.rank > most:
            raise InputError(
                f"--{self.name}.rank {self.rank}: the kernels that {self.targets} names have a rank of at most {most}: "
                "give at most that"
            )

    def _init(self, base: Params, key: jax.Array) -> Params:
        leaves = flatten(base)
        theta = copied_heads(base)
        modules = self.modules(leaves)
        for module, k in zip(modules, jax.random.split(key, len(modules)), strict=True):
            fan_in, fan_out = leaves[f"{module}/kernel"].shape
            bound = 1 / math.sqrt(fan_in)
            theta[f"{module}/{A}"] = jax.random.uniform(k, (fan_in, self.rank), minval=-bound, maxval=bound)
            theta[f"{module}/{B}"] = jnp.zeros((self.rank, fan_out))
        return unflatten(theta)

    def _merge(self, base: Params, theta: Params) -> Params:
        return self._merged(base, flatten(theta))

    def _inject(self, base: Params, theta: Params, key: jax.Array) -> Params:
        leaves = flatten(theta)
        if self.factored:
            return self._side_path(base, leaves)
        if self.dropout == 0:
            return self._merged(base, leaves)
        modules = modules_of(leaves)
        for module, k in zip(modules, jax.random.split(key, len(modules)), strict=True):
            a = leaves[f"{module}/{A}"]
            keep = jax.random.bernoulli(k, 1 - self.dropout, (a.shape[0], 1))
            leaves[f"{module}/{A}"] = jnp.where(keep, a / (1 - self.dropout), 0.0)
        return self._merged(base, leaves)

    def _merged(self, base: Params, leaves: dict) -> Params:
        merged = flatten(base) | {path: leaf for path, leaf in leaves.items() if not path.endswith((A, B))}
        for module in modules_of(leaves):
            path = weight_of(module, merged)
            merged[path] = merged[path] + self.scale * (leaves[f"{module}/{A}"] @ leaves[f"{module}/{B}"])
        return unflatten(merged)

    def _side_path(self, base: Params, leaves: dict) -> Params:
        siblings = {}
        for module in modules_of(leaves):
            siblings[f"{module}/lora_scale"] = jnp.float32(self.scale)
            siblings[f"{module}/lora_dropout"] = jnp.float32(self.dropout)
        return overlay(base, unflatten({**leaves, **siblings}))


def modules_of(leaves: Iterable[str]) -> list[str]:
    """Return the sorted paths of the modules that an adapter's leaves belong to."""
    return sorted(path.removesuffix(f"/{A}") for path in leaves if path.endswith(f"/{A}"))


def weight_of(module: str, leaves: Collection[str]) -> str:
    """Return the path of the matrix that an adapter of a module changes: its kernel [in, out], or embeddings [V, D]."""
    table = f"{module}/embedding"
    return table if table in leaves else f"{module}/kernel"
