"""PEFT's LORA: LoRA, and its variants rsLoRA (use_rslora) and DoRA (use_dora), on dense layers and embeddings.

Where transformers fuses dense layers that are separate modules here, as GPT-2's c_attn or ModernBERT's Wqkv and Wi,
both directions are exact. Read: with B = [B_q B_k B_v] along its outputs, A·B is [A·B_q A·B_k A·B_v], so every part
gets the same A, and DoRA's lengths, one an output, are divided likewise. Written: parts with matrices of their own
become one adapter of the summed rank, A = [A_q A_v] and B block-diagonal, with α such that the scale is the same.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from fft.adapters.config import Linear
from fft.adapters.layout import Format, Layout, Leaves, Part, Table, Tensor, Written
from fft.adapters.targets import matrix_targets, pattern_of
from fft.core.bounds import Count, Finite
from fft.methods import DoRA, LoRA, RsLoRA
from fft.methods.dora import MAGNITUDE, column_norms
from fft.methods.lora import A, B, modules_of
from fft.models.files.unembed import KERNEL, WORDS

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Config(Linear):
    """The fields of a LoRA adapter."""

    r: int
    lora_alpha: float
    lora_dropout: float = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, Count] | None = None
    alpha_pattern: dict[str, Finite] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    ensure_weight_tying: bool = False
    megatron_core: Any = None
    qalora_group_size: Any = None
    runtime_config: Any = None
    eva_config: Any = None  # only about the initial A, which no longer matters
    unset: ClassVar[tuple[str, ...]] = (
        *Linear.unset,
        *("lora_bias", "target_parameters", "layer_replication", "loftq_config", "alora_invocation_tokens"),
        *("use_qalora", "use_bdlora", "megatron_config", "corda_config", "lora_ga_config", "velora_config"),
        *("arrow_config", "monteclora_config", "kasa_config"),
    )
    allowed: ClassVar[Mapping[str, tuple[tuple, str]]] = {
        **Linear.allowed,
        "init_lora_weights": (
            (True, False, "gaussian", "orthogonal", "eva"),
            "it changes the base's own weights too, which are not in the adapter",
        ),
    }

    @property
    def patterned(self) -> bool:
        """Whether modules differ in rank or scale."""
        return bool(self.rank_pattern or self.alpha_pattern)

    def rank(self, name: str) -> int:
        """Return the rank of a module of transformers."""
        own = pattern_of(self.rank_pattern, name)
        return self.r if own is None else int(own)

    def scale(self, name: str) -> float:
        """Return the scale of a module's update: α/R, or α/√R with use_rslora."""
        own = pattern_of(self.alpha_pattern, name)
        rank = self.rank(name)
        return (self.lora_alpha if own is None else own) / (math.sqrt(rank) if self.use_rslora else rank)


def method_of(config: Config) -> dict[str, Any]:
    """Return the method of a config, as JSON data.

    DoRA with rsLoRA's scale is DoRA with α·√R, as (α·√R) / R = α / √R. With patterns the method's scale is 1, and B
    contains that of its module.
    """
    kind = DoRA if config.use_dora else RsLoRA if config.use_rslora else LoRA
    alpha = config.lora_alpha * math.sqrt(config.r) if config.use_dora and config.use_rslora else config.lora_alpha
    if config.patterned:
        kind, alpha = DoRA if config.use_dora else LoRA, config.r
    return {"name": kind.name, "rank": config.r, "alpha": alpha, "dropout": config.lora_dropout}


def tensors(config: Config, layout: Layout) -> list[Tensor]:
    """Return A and B of every targeted module, and DoRA's magnitudes."""
    matrices = []
    for name, place in matrix_targets(config, layout).items():
        key, rank = f"{PREFIX}{name}", config.rank(name)
        scale = config.scale(name) if config.patterned else 1.0
        if isinstance(place, Table):
            matrices += _of_table(key, place, rank, scale)
            width, parts = place.dim, {place.module: slice(0, place.dim)}
        else:
            matrices += _of_parts(key, place, rank, scale)
            width, parts = place[-1].rows.stop, {part.module: part.rows for part in place}
        if config.use_dora:
            lengths = {f"{module}/{MAGNITUDE}": _taken(rows) for module, rows in parts.items()}
            matrices.append(Tensor(f"{key}.lora_magnitude_vector", (width,), lengths))
    return matrices


def _of_parts(key: str, parts: Sequence[Part], rank: int, scale: float) -> list[Tensor]:
    first = {f"{part.module}/{A}": np.transpose for part in parts}
    second = {f"{part.module}/{B}": _taken(part.rows, scale) for part in parts}
    return [
        Tensor(f"{key}.lora_A.weight", (rank, parts[0].fan_in), first),
        Tensor(f"{key}.lora_B.weight", (parts[-1].rows.stop, rank), second),
    ]


def _of_table(key: str, table: Table, rank: int, scale: float) -> list[Tensor]:
    first, second = {f"{table.module}/{A}": np.transpose}, {f"{table.module}/{B}": _taken(slice(0, table.dim), scale)}
    return [
        Tensor(f"{key}.lora_embedding_A", (rank, table.rows), first),
        Tensor(f"{key}.lora_embedding_B", (table.dim, rank), second),
    ]


def _taken(rows: slice, scale: float = 1.0):
    """Return the function that takes rows of a tensor, transposed and multiplied by `scale`."""
    return lambda value: (value[rows] if scale == 1 else np.float32(scale) * value[rows].astype(np.float32)).T


def written(method: LoRA, layout: Layout, base: Leaves, theta: Leaves) -> Written:
    """Return the config fields and tensors of a LoRA, RsLoRA or DoRA adapter, and of trained biases beside it."""
    modules, ranks, tensors = set(modules_of(theta)), {}, {}
    for name, table in layout.tables().items():
        if table.module in modules:
            a, b = theta[f"{table.module}/{A}"], theta[f"{table.module}/{B}"]
            tensors |= {f"{PREFIX}{name}.lora_embedding_A": a.T, f"{PREFIX}{name}.lora_embedding_B": b.T}
            ranks[name] = a.shape[1]
            if isinstance(method, DoRA):
                tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = theta[f"{table.module}/{MAGNITUDE}"]
    for name, parts in layout.linear().items():
        if modules.isdisjoint(part.module for part in parts):
            continue
        a, b = joined([part for part in parts if part.module in modules], parts[-1].rows.stop, theta)
        tensors |= {f"{PREFIX}{name}.lora_A.weight": a.T, f"{PREFIX}{name}.lora_B.weight": b.T}
        ranks[name] = a.shape[1]
        if isinstance(method, DoRA):
            lengths = [theta.get(f"{part.module}/{MAGNITUDE}") for part in parts]
            norms = [np.asarray(column_norms(jnp.asarray(base[f"{part.module}/kernel"]))) for part in parts]
            lengths = [norm if own is None else own for own, norm in zip(lengths, norms, strict=True)]
            tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = np.concatenate(lengths)
    own = {f"{module}/{leaf}" for module in modules for leaf in (A, B, MAGNITUDE)}
    biases = {path for path in theta if path.endswith("/bias") and not path.startswith(("heads/", "pooler/"))}
    if any(path not in base or not np.array_equal(theta[path], base[path]) for path in biases):
        tensors |= _biases(layout, {**base, **theta}, set(ranks))
        own |= biases
    fields = {
        **_fields(method, ranks),
        "bias": "all" if biases & own else "none",
        "fan_in_fan_out": bool(layout.family.turned),
    }
    if {WORDS, KERNEL} <= theta.keys() and np.array_equal(theta[WORDS].T, theta[KERNEL]):
        fields["ensure_weight_tying"] = True
    return Written(fields, tensors, frozenset(own))


def joined(parts: Sequence[Part], width: int, theta: Leaves) -> tuple[np.ndarray, np.ndarray]:
    """Return A [in, R] and B [R, width] of a module of transformers whose outputs contain those of `parts`.

    Parts with one and the same A share it; else A has the columns of all, and B is zero where a part's rows and another
    part's outputs meet.
    """
    firsts = [theta[f"{part.module}/{A}"] for part in parts]
    shared = all(np.array_equal(first, firsts[0]) for first in firsts)
    a = firsts[0] if shared else np.concatenate(firsts, axis=1)
    b, start = np.zeros((a.shape[1], width), np.float32), 0
    for part, first in zip(parts, firsts, strict=True):
        b[start : start + first.shape[1], part.rows] = theta[f"{part.module}/{B}"]
        start += 0 if shared else first.shape[1]
    return a, b


def _fields(method: LoRA, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return the config fields; the most frequent rank is `r`, others are in the patterns, all with one scale.

    That of a module is α/R, so a program that ignores the patterns still scales every update rightly.
    """

    def alpha(rank: int) -> float:
        return method.scale * (math.sqrt(rank) if isinstance(method, RsLoRA) else rank)

    common = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != common}
    return {
        "r": common,
        "lora_alpha": method.alpha if common == method.rank else alpha(common),
        "lora_dropout": method.dropout,
        "use_rslora": isinstance(method, RsLoRA),
        "use_dora": isinstance(method, DoRA),
        "target_modules": list(ranks),
        **({"rank_pattern": others} if others else {}),
        **({"alpha_pattern": {name: alpha(rank) for name, rank in others.items()}} if others else {}),
    }


def _biases(layout: Layout, leaves: Leaves, targets: set[str]) -> dict[str, np.ndarray]:
    """Return every bias of the model under PEFT's keys, which tell those of targeted modules apart."""
    paths = [path for path in layout.names.values() if path.endswith("/bias")]
    stored = layout.stored(leaves, paths)
    ends = {name: name.removesuffix(".bias") for name in stored}
    return {
        f"{PREFIX}{module}.base_layer.bias" if module in targets else f"{PREFIX}{name}": stored[name]
        for name, module in ends.items()
    }


FORMAT = Format((LoRA, RsLoRA, DoRA), Config, PREFIX, method_of, tensors, written)
