"""Suppression of log messages by orbax about failures that are also raised as errors."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress absl's log: orbax logs a traceback before it raises, and the error itself is enough."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def abandoned_writes_are_silent() -> Iterator[None]:
    """Suppress the messages of writes that end after another write failed and orbax gave up.

    They complain that their event loop is closed, or that their exception was never retrieved.
    """
    before, logger = sys.unraisablehook, logging.getLogger("asyncio")
    filters = logger.filters

    def unless_abandoned(unraisable: "UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = unless_abandoned
    logger.filters = [*filters, _was_retrieved]
    yield  # after a failure both filters stay, as the writes end later in other threads
    sys.unraisablehook, logger.filters = before, filters


def _was_retrieved(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()
