"""The rope fields of a config.json in all spellings: reading, merging and checking them.

transformers 5 writes `rope_parameters`, older versions `rope_theta` and `rope_scaling`; both are read, and refused if
they contradict each other.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Protocol

from fft.models.fields import FULL, SLIDING, RopeFields, is_number, is_object
from fft.models.rope import KINDS, READ, Rope

NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
LISTS = ("short_factor", "long_factor")


class Rotated(Protocol):
    """The config of a model with rotary positions."""

    @property
    def width(self) -> int:
        """K, the width of a head."""
        ...

    @property
    def max_position_embeddings(self) -> int:
        """The number of positions that the model was trained for."""
        ...

    def rope_fields(self) -> dict[str, dict[str, Any]]:
        """Return the rope fields by type of layer. Raises: ValueError for fields that contradict each other."""
        ...


def rope_problems(config: Rotated) -> Iterator[str]:
    """Yield what is wrong with the rope fields of a config, and whether its heads cannot be rotated."""
    if config.width % 2:
        yield f"the head width {config.width} is odd, which rotary positions do not allow"
    try:
        by_type = config.rope_fields()
    except ValueError as error:
        yield str(error)
        return
    for given in by_type.values():
        yield from wrong_rope(given, config.width)


def rope_of(given: Mapping[str, Any], width: int, max_positions: int, theta: float) -> Rope:
    """Return the rotation of some rope fields for heads of this width; `theta` is the default."""
    known = {field.name for field in fields(Rope)}
    own = {name: value for name, value in given.items() if name in known and value is not None}
    return Rope(**{"width": width, "max_positions": max_positions, "rope_theta": theta} | own)


def nested_rope(rope_parameters: RopeFields | None) -> dict[str, dict[str, Any]]:
    """Return rope_parameters that are nested by type of layer as {FULL: fields, SLIDING: fields}.

    Raises: ValueError if they are not nested or name another type.
    """
    nested = dict(rope_parameters or ())
    if strange := sorted(set(nested) - {FULL, SLIDING}):
        raise ValueError(f"rope_parameters has {', '.join(strange)}; expected {FULL} and {SLIDING}")
    if wrong := [kind for kind, values in nested.items() if values is not None and not is_object(values)]:
        raise ValueError(f"rope_parameters.{wrong[0]} must be an object of rope fields, but is {nested[wrong[0]]!r}")
    return {kind: dict(nested.get(kind) or ()) for kind in (FULL, SLIDING)}


def merged(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rope fields of several objects {name: fields} as one; `type` is the old name of rope_type.

    Raises: ValueError naming a field that has two values.
    """
    given: dict[str, Any] = {}
    for source, values in sources.items():
        for spelled, value in values.items():
            name = "rope_type" if spelled == "type" else spelled
            if name in given and given[name] != value:
                at = f"{source}.{spelled}" if source else spelled
                raise ValueError(
                    f"the rope fields contradict each other: {name} is {given[name]!r}, but {at} is {value!r}"
                )
            given[name] = value
    return given


def wrong_rope(given: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield what is wrong with the rope fields of heads of `width` entries.

    That is an unknown type, fields that the type lacks or does not read, and wrong values.
    """
    kind = given.get("rope_type", "default")
    if kind not in KINDS:
        yield f"rope_type {kind!r} is not supported; supported are {', '.join(KINDS)}"
        return
    read = {"rope_type", "rope_theta", *READ[kind]}
    if strange := sorted(name for name, value in given.items() if name not in read and value is not None):
        yield f"rope_type {kind!r} does not read {', '.join(strange)}"
    if missing := [name for name in NEEDED.get(kind, ()) if given.get(name) is None]:
        yield f"rope_type {kind!r} needs {', '.join(missing)}"
    for name, value in sorted(given.items()):
        if value is None or name not in read - {"rope_type"}:
            continue
        if name == "truncate":
            valid, words = type(value) is bool, "true or false"
        elif name in LISTS:
            valid = isinstance(value, tuple) and len(value) == width // 2 and all(map(_is_positive, value))
            words = f"a list of {width // 2} positive numbers, one for each pair of a head's entries"
        else:
            valid, words = _is_positive(value), "a positive number"
        if not valid:
            yield f"rope field {name} must be {words}, but is {value!r}"
    if kind == "llama3" and all(_is_positive(given.get(name)) for name in NEEDED[kind]):
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        if low >= high:
            yield f"rope field high_freq_factor must exceed low_freq_factor, but is {high} beside {low}"


def _is_positive(value: Any) -> bool:
    return is_number(value) and 0 < value < math.inf
