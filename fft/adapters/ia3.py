"""PEFT's IA3: a vector scales the inputs of its feed-forward modules and the outputs of its other modules."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fft.adapters.config import Linear
from fft.adapters.layout import Format, Layout, Tensor, linear_targets
from fft.core.tree import compile_pattern
from fft.methods import IA3
from fft.methods.ia3 import IN, OUT

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Config(Linear):
    """The fields of an IA3 adapter."""

    feedforward_modules: str | list[str]
    init_ia3_weights: bool = True


def describe(method: IA3, layout: Layout, paths: Iterable[str]) -> dict[str, Any]:
    """Return the config fields of an IA3 adapter with leaves at `paths`."""
    own, linear = set(paths), layout.linear()
    return {
        "target_modules": [n for n, place in linear.items() if {f"{place[0]}/{IN}", f"{place[0]}/{OUT}"} & own],
        "feedforward_modules": [n for n, place in linear.items() if f"{place[0]}/{IN}" in own],
        "fan_in_fan_out": False,
    }


def method_of(config: Config) -> dict[str, Any]:
    """Return the method of a config, as JSON data."""
    return {"name": IA3.name}


def tensors(config: Config, layout: Layout) -> list[Tensor]:
    """Return the vector of every targeted layer."""
    vectors = []
    for name, (module, fan_in, fan_out) in linear_targets(config, layout).items():
        key = f"{PREFIX}{name}.ia3_l"
        if _is_feedforward(config.feedforward_modules, name):
            vectors.append(Tensor(key, (1, fan_in), f"{module}/{IN}", (fan_in,)))
        else:
            vectors.append(Tensor(key, (fan_out, 1), f"{module}/{OUT}", (fan_out,)))
    return vectors


def _is_feedforward(feedforward: str | list[str], name: str) -> bool:
    """Match by PEFT's rule: a regular expression over the full name, or a list of endings, not only at a dot."""
    if isinstance(feedforward, str):
        return bool(compile_pattern(feedforward).fullmatch(name))
    return name.endswith(tuple(feedforward))


FORMAT = Format((IA3,), Config, PREFIX, describe, method_of, tensors)
