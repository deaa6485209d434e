"""Types of config.json's fields: each says in words which values are valid, and is checked when a file is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args

from fft.models.layers import ACTIVATIONS, Config

MOST_LAYERS, MOST_SIZE = 1_000, 10**8
FULL, SLIDING = "full_attention", "sliding_attention"
"""the types of layers"""


@dataclass(frozen=True)
class Valid:
    """The valid values of a field, in words and as a predicate of the value and the whole config."""

    words: str
    holds: Callable[[Any, Any], bool]


def is_number(value: object) -> bool:
    """Whether `value` is an int or a float, finite or not, but not a bool."""
    return type(value) in (int, float)


def is_object(value: Any, config: Any = None) -> bool:
    """Whether a value is a JSON object as `fft.models.files.config.hashable` returns it."""
    return isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)


def _sized(most: int) -> Valid:
    return Valid(f"a positive integer of at most {most:,}", lambda value, _: type(value) is int and 0 < value <= most)


def _token(value: Any, config: Any) -> bool:
    """Whether `value` is a token id below the vocabulary size; a size that is not an int is reported by its field."""
    size = config.vocab_size
    return type(value) is int and value >= 0 and not (type(size) is int and value >= size)


Size = Annotated[int, _sized(MOST_SIZE)]
Depth = Annotated[int, _sized(MOST_LAYERS)]
Rate = Annotated[float, Valid("a number in [0, 1)", lambda value, _: is_number(value) and 0 <= value < 1)]
Small = Annotated[float, Valid("a number between 0 and 1", lambda value, _: is_number(value) and 0 < value < 1)]
Positive = Annotated[float, Valid("a positive number", lambda value, _: is_number(value) and 0 < value < float("inf"))]
Switch = Annotated[bool, Valid("true or false", lambda value, _: type(value) is bool)]
Off = Annotated[bool, Valid("false or null", lambda value, _: value is False)]
Whole = Annotated[int, Valid("an integer of at least 0", lambda value, _: type(value) is int and value >= 0)]
Token = Annotated[int, Valid("a token id below vocab_size", _token)]
Activation = Annotated[
    str,
    Valid(f"a known activation ({', '.join(sorted(ACTIVATIONS))})", lambda value, _: value in tuple(ACTIVATIONS)),
]
RopeFields = Annotated[tuple[tuple[str, Any], ...], Valid("an object of rope fields", is_object)]
"""an object of config.json as `fft.models.files.config.hashable` returns it"""
LayerTypes = Annotated[
    tuple[str, ...],
    Valid(
        f"one of {FULL} and {SLIDING} for each layer",
        lambda value, config: (
            isinstance(value, tuple) and set(value) <= {FULL, SLIDING} and len(value) == config.num_hidden_layers
        ),
    ),
]
Flags = Annotated[
    tuple[int, ...],
    Valid(
        "0 or 1 for each layer",
        lambda value, config: (
            isinstance(value, tuple) and set(value) <= {0, 1} and len(value) == config.num_hidden_layers
        ),
    ),
]


def wrong_values(config: Config) -> Iterator[str]:
    """Yield a message for each field whose value is not valid: the field, what is expected, and the value."""
    for field in fields(config):
        value, valid = getattr(config, field.name), _valid_of(field.type)
        if valid and not (value is None and type(None) in get_args(field.type)) and not valid.holds(value, config):
            yield f"{field.name} must be {valid.words}, but is {value!r}"


def _valid_of(kind: Any) -> Valid | None:
    """Return the Valid in a type such as `Size` or `Size | None`."""
    for part in (kind, *get_args(kind)):
        for mark in getattr(part, "__metadata__", ()):
            if isinstance(mark, Valid):
                return mark
    return None
