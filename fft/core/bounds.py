"""Bounds of settings: part of a field's type, and checked the same way for Python, flags and JSON.

@dataclass(frozen=True)
class Warmup:
    share: Share = 0.1

    def __post_init__(self) -> None:
        check_bounds(self)
"""

import dataclasses
import math
import numbers
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Interval, Le, Predicate

from fft.core.errors import InputError

MOST_COUNT = 2**31 - 1
MOST_SEED = 2**31 - 1
MOST_FLOAT = 3e38  # near the largest float32, in which the settings are used

Count = Annotated[int, Interval(ge=1, le=MOST_COUNT)]
"""number of steps, rows and so on"""
CountOrZero = Annotated[int, Interval(ge=0, le=MOST_COUNT)]
Seed = Annotated[int, Interval(ge=0, le=MOST_SEED)]
Finite = Annotated[float, Predicate(math.isfinite)]
Positive = Annotated[float, Interval(gt=0, le=MOST_FLOAT)]
NonNegative = Annotated[float, Interval(ge=0, le=MOST_FLOAT)]
Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
DropShare = Annotated[float, Interval(ge=0, le=0.99)]
"""probability p of dropping a value at random; below 1, as the others are divided by 1 − p"""
Temperature = Annotated[float, Interval(gt=0, le=1_000)]
"""divisor of logits in a divergence, whose square is used in float32"""


class OutOfBoundsError(InputError):
    """Raised for a setting outside the bounds of its type; `setting` is its flag without the leading dashes."""

    def __init__(self, setting: str, complaint: str) -> None:
        super().__init__(f"--{setting} {complaint}")
        self.setting, self.complaint = setting, complaint


def check_bounds(settings: Any, prefix: str = "") -> None:
    """Check every field of a dataclass against the bounds and choices in its type; in a tuple, every element.

    `prefix` is put before the field's name in errors.
    Raises: OutOfBoundsError for the first field outside its bounds, or infinite or NaN.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            check_value(prefix + field.name.replace("_", "-"), each, field.type)


def check_value(setting: str, value: Any, kind: Any) -> None:
    """Check one value against the bounds and choices in the type `kind`; None passes.

    Raises: OutOfBoundsError that names the value `setting`.
    """
    assert not isinstance(kind, str), "a module of settings must not postpone its annotations"
    if value is None:
        return
    bounds, choices = list(_bounds_in(kind)), list(_choices_in(kind))
    if choices and value not in choices:
        raise OutOfBoundsError(setting, f"must be one of {', '.join(map(str, choices))}, not {value!r}")
    if not bounds:
        return
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise OutOfBoundsError(setting, f"must be {_described(bounds)}, not {value!r}")
    if not isinstance(value, numbers.Integral) and not _has_floats(kind):
        raise OutOfBoundsError(setting, f"must be a whole number, not {value}")
    if not all(_is_met(bound, value) for bound in bounds):
        raise OutOfBoundsError(setting, f"must be {_described(bounds, value)}, not {value}")


def _bounds_in(kind: Any) -> Iterator[Any]:
    """Yield the bounds at any depth of a type, for example those in `tuple[Share, ...] | None`."""
    for mark in getattr(kind, "__metadata__", ()):
        if isinstance(mark, GroupedMetadata):
            yield from mark
        elif isinstance(mark, BaseMetadata):
            yield mark
    for part in get_args(kind):
        yield from _bounds_in(part)


def _choices_in(kind: Any) -> Iterator[Any]:
    """Yield the values that the Literals at any depth of a type allow."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for part in get_args(kind):
            yield from _choices_in(part)


def _has_floats(kind: Any) -> bool:
    return kind is float or any(map(_has_floats, get_args(kind)))


def _is_met(bound: Any, value: Any) -> bool:
    match bound:
        case Ge(low):
            return value >= low
        case Gt(low):
            return value > low
        case Le(high):
            return value <= high
        case Predicate(holds):
            return holds(value)
    raise TypeError(f"no rule for the bound {bound}")


def _described(bounds: list[Any], value: Any = 0) -> str:
    """Describe the bounds in words; the upper bound of every count or number, only if `value` exceeds it."""
    low = next((bound.ge for bound in bounds if isinstance(bound, Ge)), None)
    high = next((bound.le for bound in bounds if isinstance(bound, Le)), None)
    if high in (MOST_COUNT, MOST_FLOAT) and not value > high:
        high = None
    number = "a positive number" if Gt(0) in bounds else "a number"
    match low, high:
        case None, None:
            return number
        case None, _:
            return f"{number} of at most {high:,}"
        case _, None:
            return f"at least {low:,}"
        case _:
            return f"between {low:,} and {high:,}"
