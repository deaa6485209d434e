"""PEFT's LORA: LoRA, and its variants rsLoRA (use_rslora) and DoRA (use_dora)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fft.adapters.config import Linear
from fft.adapters.layout import Format, Layout, Tensor, linear_targets
from fft.methods import DoRA, LoRA, RsLoRA
from fft.methods.dora import MAGNITUDE
from fft.methods.lora import A, B, modules_of

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Config(Linear):
    """The fields of a LoRA adapter."""

    r: int
    lora_alpha: float
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    megatron_core: Any = None
    qalora_group_size: Any = None
    runtime_config: Any = None
    ensure_weight_tying: Any = None
    eva_config: Any = None  # only about the initial A, which no longer matters
    unset: ClassVar[tuple[str, ...]] = (
        *Linear.unset,
        *("rank_pattern", "alpha_pattern", "lora_bias", "target_parameters", "trainable_token_indices"),
        *(
            "layer_replication",
            "loftq_config",
            "alora_invocation_tokens",
            "use_qalora",
            "use_bdlora",
            "megatron_config",
        ),
        *("corda_config", "lora_ga_config", "velora_config", "arrow_config", "monteclora_config", "kasa_config"),
    )
    allowed: ClassVar[Mapping[str, tuple[tuple, str]]] = {
        **Linear.allowed,
        "bias": (("none",), "it trains biases of the base too, which fft does not support"),
        "init_lora_weights": (
            (True, False, "gaussian", "orthogonal", "eva"),
            "it changes the base's own weights too, which are not in the adapter",
        ),
    }


def describe(method: LoRA, layout: Layout, paths: Iterable[str]) -> dict[str, Any]:
    """Return the config fields of a LoRA, RsLoRA or DoRA adapter with leaves at `paths`."""
    modules = set(modules_of(paths))
    return {
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": isinstance(method, RsLoRA),
        "use_dora": isinstance(method, DoRA),
        "target_modules": [name for name, place in layout.linear().items() if place[0] in modules],
        "bias": "none",
        "fan_in_fan_out": False,
    }


def method_of(config: Config) -> dict[str, Any]:
    """Return the method of a config, as JSON data.

    DoRA with rsLoRA's scale is DoRA with α·√R, as (α·√R) / R = α / √R.
    """
    kind = DoRA if config.use_dora else RsLoRA if config.use_rslora else LoRA
    alpha = config.lora_alpha * math.sqrt(config.r) if config.use_dora and config.use_rslora else config.lora_alpha
    return {"name": kind.name, "rank": config.r, "alpha": alpha, "dropout": config.lora_dropout}


def tensors(config: Config, layout: Layout) -> list[Tensor]:
    """Return A and B of every targeted layer, and DoRA's magnitudes."""
    rank, matrices = config.r, []
    for name, (module, fan_in, fan_out) in linear_targets(config, layout).items():
        key = f"{PREFIX}{name}"
        matrices.append(Tensor(f"{key}.lora_A.weight", (rank, fan_in), f"{module}/{A}", (fan_in, rank)))
        matrices.append(Tensor(f"{key}.lora_B.weight", (fan_out, rank), f"{module}/{B}", (rank, fan_out)))
        if config.use_dora:
            matrices.append(
                Tensor(f"{key}.lora_magnitude_vector", (fan_out,), f"{module}/{MAGNITUDE}", (fan_out,)),
            )
    return matrices


FORMAT = Format((LoRA, RsLoRA, DoRA), Config, PREFIX, describe, method_of, tensors)
