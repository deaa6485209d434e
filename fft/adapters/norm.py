"""PEFT's LN_TUNING: the weights of every targeted norm are stored."""

from dataclasses import dataclass
from typing import Any

from fft.adapters.config import Targeted
from fft.adapters.layout import Format, Layout, Leaves, Tensor, Written, whole
from fft.adapters.targets import targeted
from fft.methods import NormTuning

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Config(Targeted):
    """The fields of an LN_TUNING adapter; it adds none."""


def method_of(config: Config) -> dict[str, Any]:
    """Return the method of a config, as JSON data."""
    return {"name": NormTuning.name}


def tensors(config: Config, layout: Layout) -> list[Tensor]:
    """Return scale and, if it has one, bias of every targeted norm."""
    weights = []
    for name, module in targeted(config, layout.norms(), "norm").items():
        for key, path in _leaves(name, module, layout).items():
            weights.append(whole(key, layout.shapes[path], path, layout.shapes[path]))
    return weights


def _leaves(name: str, module: str, layout: Layout) -> dict[str, str]:
    """Return {PEFT's key: our path} of a norm."""
    both = (("weight", f"{module}/scale"), ("bias", f"{module}/bias"))
    return {f"{PREFIX}{name}.ln_tuning_layers.{theirs}": path for theirs, path in both if path in layout.shapes}


def written(method: NormTuning, layout: Layout, base: Leaves, theta: Leaves) -> Written:
    """Return the config fields and weights of an LN_TUNING adapter, of all norms but those of a head."""
    norms = {name: module for name, module in layout.norms().items() if not module.startswith("heads/")}
    leaves = {**base, **theta}
    keys = {key: path for name, module in norms.items() for key, path in _leaves(name, module, layout).items()}
    tensors = {key: leaves[path] for key, path in keys.items()}
    return Written({"target_modules": list(norms)}, tensors, frozenset(keys.values()))


FORMAT = Format((NormTuning,), Config, PREFIX, method_of, tensors, written)
