"""Settings: how the help shows their defaults, and how those read from JSON are checked against their types."""

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

TELLS_DEFAULT = tyro.conf.arg(help_behavior_hint="")
"""Marks a setting whose text says what its default comes to; the help then adds no `(default: None)` of its own."""

AsJson = Annotated[
    bool,
    tyro.conf.arg(help="print the result as one JSON object on standard output, everything else on standard error"),
]


def validated(kind: Any, data: Any, where: str) -> Any:
    """`data` (plain JSON data) as a value of the type `kind`: no unknown names, no coerced types.

    Raises: InputError that names the path of every offending value, e.g. `experiment.optim.lr`.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        raise InputError("; ".join(_complaints(error.errors(), data, where))) from None


def _complaints(errors: "Sequence[ErrorDetails]", data: Any, where: str) -> list[str]:
    """What pydantic finds wrong, one line a value: the types of a union, of which each finds it wrong, are one; of a
    value and what is in it the latter is told.
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
    """The parts of a path that are in the data; the others name the type of a union."""
    path = []
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(part)
    return tuple(path)


def later(default: T) -> T:
    """A setting that is younger than records that lie on disk: see `recorded`."""
    return dataclasses.field(default=default, metadata={"later": True})


def recorded(settings: Any) -> Any:
    """Settings as `dataclasses.asdict` gives them, without the `later` ones that are at their default: so the JSON, and
    its hash, of what was recorded before there were such settings stay as they were.
    """
    if isinstance(settings, tuple):
        return tuple(map(recorded, settings))
    if not dataclasses.is_dataclass(settings):
        return settings
    said = [(field, getattr(settings, field.name)) for field in dataclasses.fields(settings)]
    return {f.name: recorded(value) for f, value in said if not ("later" in f.metadata and value == f.default)}


def says_nothing(value: object) -> bool:
    """Whether a setting of a file leaves everything as it is without it: null, false, "", [], or a table of such."""
    if isinstance(value, dict):
        return all(map(says_nothing, value.values()))
    return value is None or value is False or value in ("", [])


def without_name(args: Sequence[str], flag: str) -> list[str]:
    """The arguments without the flag that names what may stand without one: `--run RUN` and `--run=RUN` are RUN."""
    return [argument.removeprefix(f"{flag}=") for argument in args if argument != flag]


def listed(value: object) -> tuple:
    """Several values as a tuple, one alone as a tuple of it, None as an empty one."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def alone(values: Sequence[T]) -> T | list[T] | None:
    """The inverse of `listed`, for JSON: one value as itself, several as a list, none as None."""
    return list(values) if len(values) > 1 else next(iter(values), None)


def for_each(flag: str, values: tuple[T, ...], count: int, of: str) -> tuple[T | None, ...]:
    """One value for each of `count` things: one that is given is for all of them, none at all is None for each.

    Raises: InputError for any other number of values.
    """
    if len(values) <= 1:
        return (values or (None,)) * count
    if len(values) != count:
        raise InputError(f"--{flag} has {len(values)} values for {counted(count, of)}: give one for all, or one each")
    return values
