"""Stand-ins for the libraries of flags and settings, which an image for an accelerator often lacks.

Models, methods, train step and Fisher pass use them only to describe and check settings: with a stand-in, settings have
neither flags nor bounds, and everything is computed as before.
"""

import importlib
import sys
from types import ModuleType

LIBRARIES = ("tyro", "annotated_types")


class _Marks(type):
    def __getattr__(cls, name: str) -> type:
        return mark(name)


class Mark(metaclass=_Marks):
    """An annotation without effect: it takes any arguments, its attributes are such annotations, Mark[T] is T."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __class_getitem__(cls, kind: object) -> object:
        return kind


def mark(name: str) -> type:
    """Return a Mark of its own, so that no other one is an instance of it.

    Raises: AttributeError for a name between underscores, as of a file, which a stand-in does not have.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    return _Marks(name, (Mark,), {})


def replace_missing() -> None:
    """Put a module of Marks in the place of each of LIBRARIES that is not installed."""
    for library in LIBRARIES:
        try:
            importlib.import_module(library)
        except ModuleNotFoundError:
            sys.modules[library] = ModuleType(library, "A stand-in without effect.")
            sys.modules[library].__getattr__ = mark
