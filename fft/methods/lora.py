"""LoRA: train a low-rank update of some kernels; the base is frozen."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import tyro

from fft.core.bounds import Count, DropShare, NonNegative
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, later
from fft.core.tree import Params, flatten, overlay, unflatten
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.parts import Parts
from fft.methods.targets import in_blocks, own_value, refuse_unmatched, targeted
from fft.methods.trees import Tree, copied_heads

A, B = "lora_a", "lora_b"
OWN = tyro.conf.arg(metavar="TARGETS=NUMBER [TARGETS=NUMBER ...]", help_behavior_hint="")


@dataclass(frozen=True)
class LoRA(Method):
    """W' = W + (α/R) A·B  with A [in, R], B [R, out]; heads are trained fully.

    A starts uniform in ±1/√in, B at zero, so step 0 is the base. The adapter changes the scores of the original task;
    without the adapter, the model is the base bit for bit.

    A kernel's update is added to it, or applied beside it, x·W + s·(x·A)·B. Both compute the same without dropout; the
    second forms no gradient of W. By default it is used where it takes fewer operations (see `beside`), and with
    dropout: it masks each token's input separately, as PEFT does, which no merged weight can express. Added to the
    kernel, one mask per step drops rows of A, that is, inputs.

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
    """apply A and B beside every kernel, instead of where that is faster, and with dropout"""
    merged: bool = later(False)
    """add A·B to every kernel, instead of where that is faster"""
    layers: Annotated[str, TELLS_DEFAULT] = later("")
    """numbers of the blocks that get an update, from 0, such as 0-3,7 (default: all)"""
    ranks: Annotated[tuple[str, ...], OWN] = later(())
    """other R of some kernels, the first that fits: TARGETS=R, such as mlp=4 or layers/0/.*=16"""
    alphas: Annotated[tuple[str, ...], OWN] = later(())
    """other α of some kernels, likewise: TARGETS=α"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factored and self.merged:
            raise InputError(
                f"--{self.name}.factored and --{self.name}.merged exclude each other: leave one of them out"
            )

    def parts(self) -> Parts:
        return Parts(tree=Tree(self._init, self._merge, self._inject), lr=5e-4, check=self._check)

    @property
    def scale(self) -> float:
        """s = α/R of kernels without an R or α of their own."""
        return self.scaled(self.alpha, self.rank)

    @staticmethod
    def scaled(alpha: float, rank: int) -> float:
        """Return the scale s of an update."""
        return alpha / rank

    def modules(self, paths: Iterable[str]) -> list[str]:
        """Return the paths of the modules (a kernel's path without `/kernel`) that get an update."""
        return in_blocks(self.layers, targeted(self.targets, paths, f"{self.name}.targets"), f"{self.name}.layers")

    def rank_of(self, module: str) -> int:
        """Return R of the kernel of a module. Raises: InputError for a rank that is no whole number."""
        rank = own_value(self.ranks, module, f"{self.name}.ranks", self.rank)
        if rank != int(rank):
            raise InputError(f"--{self.name}.ranks: the rank of {module} is {rank:g}: give a whole number")
        return int(rank)

    def scale_of(self, module: str) -> float:
        """Return s of the kernel of a module."""
        return self.scaled(own_value(self.alphas, module, f"{self.name}.alphas", self.alpha), self.rank_of(module))

    def uniform(self, theta: Params) -> tuple["LoRA", Params]:
        """Return the method with one scale for all kernels, and the tree from which it merges the same weights."""
        if not (self.ranks or self.alphas):
            return self, theta
        leaves = flatten(theta)
        for module in modules_of(leaves):
            leaves[f"{module}/{B}"] = leaves[f"{module}/{B}"] * self.scale_of(module)
        return replace(self, alpha=1 / self.scaled(1.0, self.rank), ranks=(), alphas=()), unflatten(leaves)

    def beside(self, fan_in: int, rank: int, fan_out: int) -> bool:
        """Whether A [in, R] and B [R, out] are applied beside their kernel rather than added to it.

        For N tokens that takes 6·N·R·(in + out) operations with both gradients, and adding A·B to the kernel
        6·in·R·out, and 2·N·in·out for the kernel's gradient: more if 3·R·(in + out) < in·out, whatever N is.
        """
        if self.factored or self.merged:
            return self.factored
        return self.dropout > 0 or 3 * rank * (fan_in + fan_out) < fan_in * fan_out

    def _check(self, context: Context) -> None:
        """Reject a rank R above that of every kernel.

        Raises: InputError.
        """
        leaves = flatten(context.base)
        modules = self.modules(leaves)
        most = max(min(leaves[f"{module}/kernel"].shape) for module in modules)
        highest = max(map(self.rank_of, modules))
        if highest > most:
            flag = f"ranks ={highest}" if highest != self.rank else f"rank {self.rank}"
            raise InputError(
                f"--{self.name}.{flag}: the kernels that {self.targets} names have a rank of at most {most}: "
                "give at most that"
            )
        for name, settings in (("ranks", self.ranks), ("alphas", self.alphas)):
            refuse_unmatched(settings, modules, f"{self.name}.{name}")

    def _init(self, base: Params, key: jax.Array) -> Params:
        leaves = flatten(base)
        theta = copied_heads(base)
        modules = self.modules(leaves)
        for module, k in zip(modules, jax.random.split(key, len(modules)), strict=True):
            fan_in, fan_out = leaves[f"{module}/kernel"].shape
            bound, rank = 1 / math.sqrt(fan_in), self.rank_of(module)
            theta[f"{module}/{A}"] = jax.random.uniform(k, (fan_in, rank), minval=-bound, maxval=bound)
            theta[f"{module}/{B}"] = jnp.zeros((rank, fan_out))
        return unflatten(theta)

    def _merge(self, base: Params, theta: Params) -> Params:
        return self._merged(base, flatten(theta))

    def _inject(self, base: Params, theta: Params, key: jax.Array) -> Params:
        leaves = flatten(theta)
        beside = []
        for module in modules_of(leaves):
            (fan_in, rank), (_, fan_out) = leaves[f"{module}/{A}"].shape, leaves[f"{module}/{B}"].shape
            if self.beside(fan_in, rank, fan_out):
                beside.append(module)
        apart = {f"{module}/{end}": leaves.pop(f"{module}/{end}") for module in beside for end in (A, B)}
        if self.dropout > 0:
            modules = modules_of(leaves)
            for module, k in zip(modules, jax.random.split(key, max(1, len(modules))), strict=False):
                a = leaves[f"{module}/{A}"]
                keep = jax.random.bernoulli(k, 1 - self.dropout, (a.shape[0], 1))
                leaves[f"{module}/{A}"] = jnp.where(keep, a / (1 - self.dropout), 0.0)
        merged = self._merged(base, leaves)
        return self._side_path(merged, apart) if apart else merged

    def _merged(self, base: Params, leaves: dict) -> Params:
        merged = flatten(base) | {path: leaf for path, leaf in leaves.items() if not path.endswith((A, B))}
        for module in modules_of(leaves):
            path = weight_of(module, merged)
            merged[path] = merged[path] + self.scale_of(module) * (leaves[f"{module}/{A}"] @ leaves[f"{module}/{B}"])
        return unflatten(merged)

    def _side_path(self, base: Params, leaves: dict) -> Params:
        siblings = {}
        for module in modules_of(leaves):
            siblings[f"{module}/lora_scale"] = jnp.float32(self.scale_of(module))
            siblings[f"{module}/lora_dropout"] = jnp.float32(self.dropout)
        return overlay(base, unflatten({**leaves, **siblings}))


def modules_of(leaves: Iterable[str]) -> list[str]:
    """Return the sorted paths of the modules that an adapter's leaves belong to."""
    return sorted(path.removesuffix(f"/{A}") for path in leaves if path.endswith(f"/{A}"))


def weight_of(module: str, leaves: Collection[str]) -> str:
    """Return the path of the matrix that an adapter of a module changes: its kernel [in, out], or embeddings [V, D]."""
    table = f"{module}/embedding"
    return table if table in leaves else f"{module}/kernel"
