"""PEFT's LN_TUNING: every targeted layer norm is stored whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fft.adapters.config import Targeted
from fft.adapters.layout import Format, Layout, Tensor, targeted
from fft.methods import NormTuning

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Config(Targeted):
    """The fields of an LN_TUNING, which has none of its own."""


def describe(method: NormTuning, layout: Layout, paths: Iterable[str]) -> dict[str, Any]:
    """The fields of an LN_TUNING."""
    return {"target_modules": list(layout.norms())}


def method_of(config: Config) -> dict[str, Any]:
    """The method of a config."""
    return {"name": NormTuning.name}


def tensors(config: Config, layout: Layout) -> list[Tensor]:
    """Scale and bias of every targeted norm."""
    found = []
    for name, module in targeted(config, layout.norms(), "layer norm").items():
        for theirs, path in (("weight", f"{module}/scale"), ("bias", f"{module}/bias")):
            shape = layout.shapes[path]
            found.append(Tensor(f"{PREFIX}{name}.ln_tuning_layers.{theirs}", shape, path, shape))
    return found


FORMAT = Format((NormTuning,), Config, PREFIX, describe, method_of, tensors)
