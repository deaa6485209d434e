"""Settings: how the help shows their defaults, how JSON is checked against their types, and small conversions."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from fft.core.errors import InputError
from fft.core.naming import counted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
D = TypeVar("D")

TELLS_DEFAULT = tyro.conf.arg(help_behavior_hint="")
"""Marks a setting whose help text states its default; the help then adds no `(default: None)`."""

AsJson = Annotated[
    bool,
    tyro.conf.arg(help="print the result as one JSON object on standard output, everything else on standard error"),
]


def validated(kind: Any, data: Any, where: str) -> Any:
    """Return parsed JSON data as a value of the type `kind`, without unknown names or coerced types.

    Raises: InputError that names the path of every wrong value, for example `experiment.optim.lr`.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        raise InputError("; ".join(_complaints(error.errors(), data, where))) from None


def _complaints(errors: "Sequence[ErrorDetails]", data: Any, where: str) -> list[str]:
    """Return pydantic's errors as one line per value.

    The errors of a union, one per type, are joined to one. An error of a value is dropped if a value inside it has one.
    """
    found: dict[tuple[str | int, ...], tuple[list[str], Any]] = {}
    for error in errors:
        path = error["loc"] if error["type"].startswith("missing") else _reached(data, error["loc"])
        said, _ = found.setdefault(path, ([], error["input"]))
        said.append(error["msg"].lower().removeprefix("input should be " if said else ""))
    inner = [path for path in found if not any(path == other[: len(path)] for other in found if other != path)]
    told = [(".".join([where, *map(str, path)]), " or ".join(dict.fromkeys(found[path][0])), path) for path in inner]
    return [f"{named}: {said}, got {found[path][1]!r}" for named, said, path in told]


def _reached(data: Any, loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return the parts of a path that exist in the data; pydantic's other parts name the type of a union."""
    path = []
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(part)
    return tuple(path)


def later(default: T) -> T:
    """Define a setting that was added after experiments had been recorded without it; see `recorded`."""
    return dataclasses.field(default=default, metadata={"later": True})


def recorded(settings: Any) -> Any:
    """Return settings as `dataclasses.asdict`, without `later` ones at their default.

    The JSON and the hash of older experiments thus stay the same.
    """
    if isinstance(settings, tuple):
        return tuple(map(recorded, settings))
    if not dataclasses.is_dataclass(settings):
        return settings
    said = [(field, getattr(settings, field.name)) for field in dataclasses.fields(settings)]
    return {f.name: recorded(value) for f, value in said if not ("later" in f.metadata and value == f.default)}


def says_nothing(value: object) -> bool:
    """Whether a value read from a file is as good as absent: null, false, "", [], or an object of such values."""
    if isinstance(value, dict):
        return all(map(says_nothing, value.values()))
    return value is None or value is False or value in ("", [])


def without_name(args: Sequence[str], flag: str) -> list[str]:
    """Return the arguments with an optional flag removed: `--run RUN` and `--run=RUN` become `RUN`."""
    return [argument.removeprefix(f"{flag}=") for argument in args if argument != flag]


def listed(value: object) -> tuple:
    """Return a list or tuple as a tuple, any other value as a tuple of one, None as an empty tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def alone(values: Sequence[T]) -> T | list[T] | None:
    """Return one value as itself, several as a list, none as None: the inverse of `listed`, for JSON."""
    return list(values) if len(values) > 1 else next(iter(values), None)


def for_each(flag: str, values: tuple[T, ...], count: int, of: str, default: D) -> tuple[T | D, ...]:
    """Return one value for each of `count` items: a single value is repeated, for no value the default.

    Raises: InputError for any other number of values.
    """
    if len(values) <= 1:
        return (values or (default,)) * count
    if len(values) != count:
        raise InputError(f"--{flag} has {len(values)} values for {counted(count, of)}: give one for all, or one each")
    return values
