"""PEFT's LN_TUNING: the weights of every targeted layer norm are stored."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fft.adapters.config import Targeted
from fft.adapters.layout import Format, Layout, Tensor, targeted
from fft.methods import NormTuning

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Config(Targeted):
    """The fields of an LN_TUNING adapter; it adds none."""


def describe(method: NormTuning, layout: Layout, paths: Iterable[str]) -> dict[str, Any]:
    """Return the config fields of an LN_TUNING adapter."""
    return {"target_modules": list(layout.norms())}


def method_of(config: Config) -> dict[str, Any]:
    """Return the method of a config, as JSON data."""
    return {"name": NormTuning.name}


def tensors(config: Config, layout: Layout) -> list[Tensor]:
    """Return scale and bias of every targeted norm."""
    weights = []
    for name, module in targeted(config, layout.norms(), "layer norm").items():
        for theirs, path in (("weight", f"{module}/scale"), ("bias", f"{module}/bias")):
            shape = layout.shapes[path]
            weights.append(Tensor(f"{PREFIX}{name}.ln_tuning_layers.{theirs}", shape, path, shape))
    return weights


FORMAT = Format((NormTuning,), Config, PREFIX, describe, method_of, tensors)
