"""Local paths in settings: ~ is expanded, and paths that are not on this machine are rejected.

A setting is a path if its value is a Path, or if its type is text marked with LOCAL or CHECKPOINT.
"""

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fft.core.errors import InputError
from fft.disk.surroundings import home_folder

ELSEWHERE = re.compile(r"[A-Za-z][\w+.-]+:(/|$)|(file|hf|tfds|demo):")
"""URLs such as s3://bucket (s3:/bucket as a Path), and the schemes of data sources"""
FETCHED = re.compile(r"(hf|demo):[^/]")
"""models that are fetched by a name: hf:OWNER/NAME, demo:NAME"""


@dataclass(frozen=True)
class Place:
    """Marks a text setting as a path; with `hub` it may also be hf:NAME or demo:NAME."""

    hub: bool


LOCAL, CHECKPOINT = Place(hub=False), Place(hub=True)
CheckpointPath = Annotated[str, CHECKPOINT]


def local(path: str | Path, flag: str, hub: bool = False) -> str:
    """Return a path with ~ expanded; with `hub`, hf:NAME and demo:NAME are returned as they are.

    `flag` names the path in errors.

    Raises: InputError for a path that is not local, and for ~ or ~USER without a known home folder.
    """
    text = os.fspath(path)
    if hub and FETCHED.match(text):
        return text
    if ELSEWHERE.match(text):
        shown, more = re.sub("^((?!file)[^/:]+:)/+", r"\1//", text), ", or hf:OWNER/NAME" if hub else ""
        raise InputError(
            f"{flag} {shown}: fft reads and writes local folders; give a path{more}, and copy it before or afterwards"
        )
    return expanded(text, flag)


def expanded(path: str, flag: str) -> str:
    """Return a path with ~ expanded. Raises: InputError if the home folder is not known."""
    absolute = os.path.expanduser(path)
    if absolute.startswith("~") or (path != absolute and home_folder() is None):
        raise InputError(f"{flag} {path}: no home folder is known by this name; give the whole path")
    return absolute


def make_local(settings: Any, prefix: str = "") -> None:
    """Apply `local` to every path in a frozen dataclass, in place: in its `__post_init__`, or after parsing its flags.

    Raises: InputError as `local`, naming the flag with the `prefix` of its group.
    """
    for field in dataclasses.fields(settings):
        value, marks = getattr(settings, field.name), getattr(field.type, "__metadata__", ())
        name = field.name.upper() if tyro.conf.Positional in marks else f"--{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            make_local(value)
        elif CHECKPOINT in marks or LOCAL in marks or _are_paths(value):
            object.__setattr__(settings, field.name, _localized(value, name, CHECKPOINT in marks))


def _are_paths(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, tuple) and any(isinstance(item, Path) for item in value))


def _localized(value: Any, name: str, hub: bool) -> Any:
    """Apply `local` to a path or a tuple of paths, without changing their types; None stays None."""
    if isinstance(value, tuple):
        return tuple(_localized(item, name, hub) for item in value)
    return value if value is None else type(value)(local(value, name, hub))
