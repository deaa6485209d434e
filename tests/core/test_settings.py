"""Settings from JSON are checked against their types; errors name the path of the value."""

from dataclasses import dataclass

import pytest

from fft.core.errors import InputError
from fft.core.settings import says_nothing, validated


@dataclass(frozen=True)
class Inner:
    rate: float = 0.0
    names: str | list[str] = ""


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = Inner()


def test_every_wrong_value_is_reported_and_a_union_is_one_error():
    with pytest.raises(InputError) as caught:
        validated(Outer, {"inner": {"rate": "1", "names": 5}}, "file.json")
    first, second, third = str(caught.value).split("; ")
    assert first.startswith("file.json.count: field required")
    assert second == "file.json.inner.rate: input should be a valid number, got '1'"
    assert third == "file.json.inner.names: input should be a valid string or a valid array, got 5"
    with pytest.raises(InputError, match=r"inner\.names\.1: input should be a valid string, got 2"):
        validated(Outer, {"count": 1, "inner": {"names": ["a", 2]}}, "file.json")
    assert validated(Outer, {"count": 1, "inner": {"names": ["a"]}}, "file.json").inner.names == ["a"]


@pytest.mark.parametrize("value", [None, False, "", [], {}, {"a": None, "b": {"c": []}}])
def test_values_that_are_as_good_as_absent(value):
    assert says_nothing(value)


@pytest.mark.parametrize("value", [0, True, 0.0, " ", [None], {"a": {"b": 0}}])
def test_values_that_are_not(value):
    assert not says_nothing(value)
