"""Lazy packages: a name is imported when it is first used, so that importing the package costs nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a `__getattr__` for a package: it imports a name from the module given in `homes` and caches it.

    No name may equal that of a submodule: once imported, the submodule would shadow it.
    """

    def import_name(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return import_name
