"""PEFT's IA3: its feed-forward modules have the vector on their inputs, the others on their outputs."""

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
    """The fields of an IA3."""

    feedforward_modules: str | list[str]
    init_ia3_weights: bool = True


def describe(method: IA3, layout: Layout, paths: Iterable[str]) -> dict[str, Any]:
    """The fields of an IA3."""
    found, linear = set(paths), layout.linear()
    return {
        "target_modules": [n for n, place in linear.items() if {f"{place[0]}/{IN}", f"{place[0]}/{OUT}"} & found],
        "feedforward_modules": [n for n, place in linear.items() if f"{place[0]}/{IN}" in found],
        "fan_in_fan_out": False,
    }


def method_of(config: Config) -> dict[str, Any]:
    """The method of a config."""
    return {"name": IA3.name}


def tensors(config: Config, layout: Layout) -> list[Tensor]:
    """The vector of every targeted layer."""
    found = []
    for name, (module, fan_in, fan_out) in linear_targets(config, layout).items():
        key = f"{PREFIX}{name}.ia3_l"
        if _reads(config.feedforward_modules, name):
            found.append(Tensor(key, (1, fan_in), f"{module}/{IN}", (fan_in,)))
        else:
            found.append(Tensor(key, (fan_out, 1), f"{module}/{OUT}", (fan_out,)))
    return found


def _reads(feedforward: str | list[str], name: str) -> bool:
    """PEFT's rule: a regular expression over the whole name, or a list of what names end with, dot or not."""
    if isinstance(feedforward, str):
        return bool(compile_pattern(feedforward).fullmatch(name))
    return name.endswith(tuple(feedforward))


FORMAT = Format((IA3,), Config, PREFIX, describe, method_of, tensors)
