"""What orbax and its helpers say of a failure that is told already, kept from the reader."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Orbax logs a traceback before it raises; the error itself is enough."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def abandoned_writes_are_silent() -> Iterator[None]:
    """Where one write fails, the others end after orbax has given up, and each tells of it in its own way: that its
    loop is closed, or that nobody asked for its error.
    """
    before, logger = sys.unraisablehook, logging.getLogger("asyncio")
    filters = logger.filters

    def unless_abandoned(unraisable: "UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = unless_abandoned
    logger.filters = [*filters, _was_retrieved]
    yield  # after a failure both stay: the writes end later, in other threads
    sys.unraisablehook, logger.filters = before, filters


def _was_retrieved(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()
