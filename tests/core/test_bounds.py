"""Bounds of settings: the same rules for every dataclass of settings, in Python, flags and JSON."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import pytest
from annotated_types import Interval, Lt

from fft.core.bounds import (
    MOST_COUNT,
    Count,
    Finite,
    NonNegative,
    OutOfBoundsError,
    Positive,
    Seed,
    Share,
    Temperature,
    check_bounds,
    check_value,
)
from fft.data.settings import Data
from fft.experiment import Optim, Retention
from fft.methods import METHODS


@dataclass(frozen=True)
class Settings:
    steps: Count | None = None
    share: Share = 0.5
    weights: tuple[Positive, ...] = ()
    direction: Literal["up", "down"] | None = None

    def __post_init__(self) -> None:
        check_bounds(self, "walk.")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "--walk.steps must be at least 1, not 0"),
        ({"steps": MOST_COUNT + 1}, "--walk.steps must be between 1 and 2,147,483,647, not 2147483648"),
        ({"steps": 2.5}, "--walk.steps must be a whole number, not 2.5"),
        ({"steps": "5"}, "--walk.steps must be at least 1, not '5'"),
        ({"share": 1.01}, "--walk.share must be between 0 and 1, not 1.01"),
        ({"share": math.nan}, "--walk.share must be between 0 and 1, not nan"),
        ({"weights": (1.0, 0.0)}, "--walk.weights must be a positive number, not 0.0"),
        ({"direction": "left"}, "--walk.direction must be one of up, down, not 'left'"),
    ],
)
def test_a_value_out_of_bounds_is_named_by_its_flag(values, message):
    with pytest.raises(OutOfBoundsError) as error:
        Settings(**values)
    assert str(error.value) == message


def test_values_within_bounds_pass():
    Settings()
    Settings(steps=np.int64(3), share=1, weights=(0.1, 5), direction="up")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Finite, math.inf, "must be a number"),
        (Positive, -1, "must be a positive number"),
        (NonNegative, -1, "must be at least 0"),
        (NonNegative, math.inf, "must be at least 0"),
        (Positive, 1e39, r"must be a positive number of at most 3e\+38"),
        (NonNegative, 1e39, r"must be between 0 and 3e\+38"),
        (Temperature, 1e300, "must be a positive number of at most 1,000"),
        (Seed, -1, "must be at least 0"),
        (Annotated[float, Interval(gt=0, le=16)], 17, "must be a positive number of at most 16"),
        (Annotated[int, Interval(ge=3, le=160)], 999, "must be between 3 and 160"),
    ],
)
def test_every_kind_of_bound(kind, value, message):
    with pytest.raises(OutOfBoundsError, match=f"--x {message}, not"):
        check_value("x", value, kind)


def test_an_unknown_kind_of_bound_and_a_postponed_type_are_errors():
    with pytest.raises(TypeError, match="no rule for the bound"):
        check_value("x", 1, Annotated[int, Lt(3)])
    with pytest.raises(AssertionError, match="postpone"):
        check_value("x", 1, "Count")


def takes_numbers(kind) -> bool:
    return kind in (int, float) or any(map(takes_numbers, get_args(kind)))


@pytest.mark.parametrize("kind", [Optim, Retention, Data, *METHODS.values()])
def test_every_number_of_the_settings_has_bounds(kind):
    required = {"source": "x"} if kind is Data else {}
    for field in dataclasses.fields(kind):
        if takes_numbers(field.type):
            with pytest.raises(OutOfBoundsError, match=field.name.replace("_", "-")):
                kind(**required, **{field.name: math.nan})
