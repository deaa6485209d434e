"""A short __repr__ for values with many arrays, for example in a notebook: sizes in place of contents."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

MAX_CHARACTERS = 100  # of one value


def brief(self: NamedTuple) -> str:
    """Return a short __repr__ of a NamedTuple.

    An array is shown as its dtype and shape, a tree or sequence of arrays as their number, a function as its name;
    other values are cut to MAX_CHARACTERS.
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
    if hasattr(value, "_fields") or len(text) <= MAX_CHARACTERS:
        return text
    start = f"{text[:MAX_CHARACTERS]}…"
    return f"{start} ({len(value):,} in all)" if isinstance(value, Mapping | list | tuple) else start


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _arrays(value: Any) -> Iterable[Any]:
    """Yield the arrays inside mappings, lists and tuples; a NamedTuple is skipped, as it shows its own fields."""
    if _is_array(value):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _arrays(item)
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        for item in value:
            yield from _arrays(item)
