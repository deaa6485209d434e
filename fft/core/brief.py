"""How a value with many arrays in it is shown, in a notebook say: by what there is of them, not by their content."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

MOST = 100  # characters of one value


def brief(self: NamedTuple) -> str:
    """A NamedTuple with every field in few characters, to be its __repr__: trees and sequences of arrays are counted,
    one array is its dtype and shape, functions are their names, and what is long is cut.
    """
    fields = ", ".join(f"{name}={_shown(value)}" for name, value in self._asdict().items())
    return f"{type(self).__name__}({fields})"


def _shown(value: Any) -> str:
    if _is_array(value):
        return f"{value.dtype}{list(value.shape)}"
    arrays = list(_arrays(value))
    if arrays:
        return f"{len(arrays):,} arrays of {sum(math.prod(array.shape) for array in arrays):,} numbers"
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    text = repr(value)
    if hasattr(value, "_fields") or len(text) <= MOST:
        return text
    return f"{text[:MOST]}… ({len(value):,} in all)" if isinstance(value, Mapping | list | tuple) else f"{text[:MOST]}…"


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _arrays(value: Any) -> Iterable[Any]:
    """The arrays inside mappings, lists and tuples, but for those of a NamedTuple, which has fields of its own."""
    if _is_array(value):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _arrays(each)
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        for each in value:
            yield from _arrays(each)
