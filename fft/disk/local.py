"""Paths as people write them: ~ is a home folder, and what lies elsewhere than on this machine is refused.

A dataclass says by their types which of its settings are paths: those that are Path, and text that is marked so.
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
"""s3://bucket, which a Path writes s3:/bucket, and the schemes of data sources"""


@dataclass(frozen=True)
class Place:
    """Marks text that is a path; with `hub`, or hf:NAME."""

    hub: bool


LOCAL, CHECKPOINT = Place(hub=False), Place(hub=True)
CheckpointPath = Annotated[str, CHECKPOINT]


def local(given: str | Path, flag: str, hub: bool = False) -> str:
    """The path that is meant, its ~ the home folder; with `hub`, hf:NAME stands. `flag` names it in errors.

    Raises: InputError for what lies elsewhere, and for the home folder of nobody that is known.
    """
    text = os.fspath(given)
    if hub and re.match("hf:[^/]", text):
        return text
    if ELSEWHERE.match(text):
        shown, more = re.sub("^((?!file)[^/:]+:)/+", r"\1//", text), ", or hf:OWNER/NAME" if hub else ""
        raise InputError(
            f"{flag} {shown}: fft reads and writes local folders; give a path{more}, and copy it before or afterwards"
        )
    return expanded(text, flag)


def expanded(path: str, flag: str) -> str:
    """The path with its ~ the home folder; InputError where nobody knows of one."""
    meant = os.path.expanduser(path)
    if meant.startswith("~") or (path != meant and home_folder() is None):
        raise InputError(f"{flag} {path}: no home folder is known by this name; give the whole path")
    return meant


def make_local(settings: Any, prefix: str = "") -> None:
    """Make every path in a frozen dataclass local, in place: in its `__post_init__`, or once its flags are parsed.

    Raises: InputError as `local`, which names the flag, with the prefix of its group.
    """
    for field in dataclasses.fields(settings):
        value, marks = getattr(settings, field.name), getattr(field.type, "__metadata__", ())
        name = field.name.upper() if tyro.conf.Positional in marks else f"--{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            make_local(value)
        elif CHECKPOINT in marks or LOCAL in marks or _are_paths(value):
            object.__setattr__(settings, field.name, _made_local(value, name, CHECKPOINT in marks))


def _are_paths(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, tuple) and any(isinstance(each, Path) for each in value))


def _made_local(value: Any, name: str, hub: bool) -> Any:
    """A path, several, or none, of the types that they had."""
    if isinstance(value, tuple):
        return tuple(_made_local(each, name, hub) for each in value)
    return value if value is None else type(value)(local(value, name, hub))
