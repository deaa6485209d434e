"""Progress of long work, as displayed by `fft.report.console.Progress`.

    with doing("scoring", total=40) as work:
        for batch in batches:
            ...
            work.advance()

It costs nothing if there is no display.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Protocol, TypeVar

from fft.core.tree import Params

if TYPE_CHECKING:
    from fft.core.batch import Text

Out = TypeVar("Out")
Rows = TypeVar("Rows", bound="Text")


class Work(Protocol):
    """A piece of work on the display."""

    def advance(self, steps: int = 1) -> None:
        """Report that `steps` more steps are done."""

    def update(
        self,
        completed: int | None = None,
        total: int | None = None,
        description: str | None = None,
        more: str | None = None,
    ) -> None:
        """Set the number of steps done, their total, the description, or the text `more` after it."""


class Unshown(Work):
    """Work without a display: both methods do nothing."""


class Screen(Protocol):
    """A display of work in progress."""

    def begin(self, text: str, total: int | None, completed: int) -> Work:
        """Start to show a piece of work."""
        ...

    def end(self, work: Work) -> None:
        """Stop showing it."""


_screens: list[Screen] = []


@contextmanager
def shown_on(screen: Screen) -> Iterator[None]:
    """Display on `screen` the work that any thread begins with `doing` while the block runs."""
    _screens.append(screen)
    try:
        yield
    finally:
        _screens.remove(screen)


@contextmanager
def doing(text: str, total: int | None = None, completed: int = 0) -> Iterator[Work]:
    """Display the work `text` while the block runs; `completed` of its `total` steps are done at the start."""
    if not _screens:
        yield Unshown()
        return
    screen = _screens[-1]
    work = screen.begin(text, total, completed)
    try:
        yield work
    finally:
        screen.end(work)


def announced(
    program: Callable[[Params, Rows], Out], what: str, lengths: Sequence[int]
) -> Callable[[Params, Rows], Out]:
    """Wrap a jitted function `program(params, batch)` to display its compilation, at the first batch of each length.

    `lengths` are the padded lengths that batches may have.
    """
    seen: set[int] = set()

    @wraps(program)
    def call(params: Params, batch: Rows) -> Out:
        length = batch.ids.shape[-1]
        if length in seen:
            return program(params, batch)
        seen.add(length)
        with doing(compiling(what, length, len(seen), len(lengths))):
            return program(params, batch)

    return call


def compiling(what: str, length: int, number: int, lengths: int) -> str:
    """Describe the compilation of a program for texts of one length, number `number` of `lengths` (0: unknown).

    >>> compiling("the step", 64, 2, 5)
    'compiling the step for texts of 64 tokens, length 2 of 5'
    """
    return f"compiling {what} for texts of {length} tokens" + (f", length {number} of {lengths}" if lengths else "")


class Compiled:
    """Displays the compilation of a run's step, at the first batch of each stream and padded length.

    `lengths` are the padded lengths that the batches of each stream may have.
    """

    def __init__(self, lengths: Mapping[str, Sequence[int]]) -> None:
        self.lengths = lengths
        self.seen: dict[str, set[int]] = {stream: set() for stream in lengths}

    def on(self, batch: "Mapping[str, Text]") -> AbstractContextManager[Work | None]:
        """Return a context for the step on a batch, {stream: rows}; it displays a compilation if a shape is new."""
        new = []
        for stream, rows in batch.items():
            length, seen = rows.ids.shape[-1], self.seen[stream]
            if length not in seen:
                seen.add(length)
                new.append(f"{stream} {length} tokens, length {len(seen)} of {len(self.lengths[stream])}")
        return doing(f"compiling the step ({'; '.join(new)})") if new else nullcontext()
