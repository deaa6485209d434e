"""What the environment may lack or say otherwise: a home folder, 32 bits, streams that hold every character."""

import codecs
import io
import os
import sys
from typing import TextIO

from fft.core.errors import InputError

NOWHERE = os.devnull  # below it no folder can be made


def home_folder() -> str | None:
    """The user's home folder; None where HOME is not set to one and no password file knows the user."""
    home = os.path.expanduser("~")
    return home if os.path.isabs(home) and home != NOWHERE else None


def keep_a_home() -> None:
    """Give a home folder, in which nothing can be kept, where there is none: libraries fail without, when imported."""
    if home_folder() is None:
        os.environ["HOME"] = NOWHERE


def keep_float32() -> None:
    """Let JAX compute in 32 bits whatever JAX_ENABLE_X64 says; must be called before jax is imported."""
    os.environ["JAX_ENABLE_X64"] = "0"


def refuse_float64() -> None:
    """Refuse to go on where a program has let JAX compute in 64 bits: what fft keeps between steps is of 32."""
    import jax

    if jax.config.read("jax_enable_x64"):
        raise InputError("jax_enable_x64 is on, and fft computes in float32: switch it off, as with JAX_ENABLE_X64=0")


def show_what_fits() -> None:
    """Let standard output and error show a character that their encoding lacks by its number, and, where the caller
    has closed them, nothing, in place of failing.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 held until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def holds_every_character(stream: io.TextIOBase | TextIO) -> bool:
    """Whether a stream of text has an encoding of all characters."""
    return stream.encoding is None or codecs.lookup(stream.encoding).name == "utf-8"
