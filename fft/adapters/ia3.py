"""PEFT's IA3: a vector scales the inputs of its feed-forward modules and the outputs of its other modules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fft.adapters.config import Linear
from fft.adapters.layout import Format, Layout, Leaves, Tensor, Written
from fft.adapters.targets import linear_targets
from fft.core.tree import compile_pattern
from fft.methods import IA3
from fft.methods.ia3 import IN, OUT

PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Config(Linear):
    """The fields of an IA3 adapter."""

    feedforward_modules: str | list[str]
    init_ia3_weights: bool = True


def method_of(config: Config) -> dict[str, Any]:
    """Return the method of a config, as JSON data."""
    return {"name": IA3.name}


def tensors(config: Config, layout: Layout) -> list[Tensor]:
    """Return the vector of every targeted layer; that of a fused one is divided by outputs, or shared as its input."""
    vectors = []
    for name, parts in linear_targets(config, layout).items():
        key, width = f"{PREFIX}{name}.ia3_l", parts[-1].rows.stop
        if _is_feedforward(config.feedforward_modules, name):
            vectors.append(Tensor(key, (1, parts[0].fan_in), {f"{part.module}/{IN}": np.ravel for part in parts}))
        else:
            vectors.append(Tensor(key, (width, 1), {f"{part.module}/{OUT}": _rows(part.rows) for part in parts}))
    return vectors


def _rows(rows: slice) -> Callable[[np.ndarray], np.ndarray]:
    return lambda value: value[rows, 0]


def _is_feedforward(feedforward: str | list[str], name: str) -> bool:
    """Match by PEFT's rule: a regular expression over the full name, or a list of endings, not only at a dot."""
    if isinstance(feedforward, str):
        return bool(compile_pattern(feedforward).fullmatch(name))
    return name.endswith(tuple(feedforward))


def written(method: IA3, layout: Layout, base: Leaves, theta: Leaves) -> Written:
    """Return the config fields and vectors of an IA3 adapter; of a fused layer the untrained outputs have 1."""
    vectors, feedforward, own = {}, [], set()
    for name, parts in layout.linear().items():
        key, first = f"{PREFIX}{name}.ia3_l", parts[0]
        if f"{first.module}/{IN}" in theta:  # only of `out` and `down`, which no family fuses
            vectors[key] = theta[f"{first.module}/{IN}"][None]
            feedforward.append(name)
            own.add(f"{first.module}/{IN}")
        elif any(f"{part.module}/{OUT}" in theta for part in parts):
            paths = [f"{part.module}/{OUT}" for part in parts]
            pieces = [
                theta.get(path, np.ones(part.fan_out, np.float32)) for path, part in zip(paths, parts, strict=True)
            ]
            vectors[key] = np.concatenate(pieces)[:, None]
            own |= set(paths)
    names = [key.removeprefix(PREFIX).removesuffix(".ia3_l") for key in vectors]
    fields = {"target_modules": names, "feedforward_modules": feedforward, "fan_in_fan_out": bool(layout.family.turned)}
    return Written(fields, vectors, frozenset(own))


FORMAT = Format((IA3,), Config, PREFIX, method_of, tensors, written)
