"""Adjustments to the process environment: a home folder, 32-bit JAX, output streams that accept every character."""

import codecs
import io
import os
import sys
from typing import TextIO

from fft.core.errors import InputError

NOWHERE = os.devnull  # a home in which no folder can be created


def home_folder() -> str | None:
    """Return the user's home folder, or None if neither HOME nor the password database gives one."""
    home = os.path.expanduser("~")
    return home if os.path.isabs(home) and home != NOWHERE else None


def keep_a_home() -> None:
    """Set HOME to NOWHERE if there is no home folder: some libraries cannot be imported without HOME."""
    if home_folder() is None:
        os.environ["HOME"] = NOWHERE


def keep_float32() -> None:
    """Make JAX compute in 32 bits whatever JAX_ENABLE_X64 says; must be called before jax is imported."""
    os.environ["JAX_ENABLE_X64"] = "0"


def refuse_float64() -> None:
    """Reject a JAX that a program has set to 64 bits, as fft's state between steps is float32. Raises: InputError."""
    import jax

    if jax.config.read("jax_enable_x64"):
        raise InputError("jax_enable_x64 is on, and fft computes in float32: switch it off, as with JAX_ENABLE_X64=0")


def show_what_fits() -> None:
    """Make writing to standard output and error never fail for their encoding or because they are closed.

    A character that the encoding lacks is escaped by its number; closed streams discard everything.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 open until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def holds_every_character(stream: io.TextIOBase | TextIO) -> bool:
    """Whether the encoding of a text stream has all characters."""
    return stream.encoding is None or codecs.lookup(stream.encoding).name == "utf-8"
