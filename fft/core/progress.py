"""What long work says of itself while it goes on; `fft.report.console.Progress` shows it.

    with doing("scoring", total=40) as work:
        for batch in batches:
            ...
            work.advance()

Where nothing shows it, it costs nothing.
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
    """A piece of work that is shown."""

    def advance(self, steps: int = 1) -> None:
        """So many steps more are done."""

    def update(
        self,
        completed: int | None = None,
        total: int | None = None,
        description: str | None = None,
        more: str | None = None,
    ) -> None:
        """Set how many of how many steps are done, what is said to go on, or the text behind it."""


class Unshown(Work):
    """Work that nobody looks at: both methods do nothing."""


class Screen(Protocol):
    """What shows work."""

    def begin(self, text: str, total: int | None, completed: int) -> Work:
        """Show that a piece of work has begun."""
        ...

    def end(self, work: Work) -> None:
        """Show it no more."""


_screens: list[Screen] = []


@contextmanager
def shown_on(screen: Screen) -> Iterator[None]:
    """Show on `screen` what is `doing` in the block, in whatever thread."""
    _screens.append(screen)
    try:
        yield
    finally:
        _screens.remove(screen)


@contextmanager
def doing(text: str, total: int | None = None, completed: int = 0) -> Iterator[Work]:
    """Show that `text` goes on for as long as the block runs, `completed` of `total` steps of it done."""
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
    """`program(params, batch)`, a jitted function, that says when it is compiled: at its first batch of every length.

    `lengths` are those that batches may have.
    """
    met: set[int] = set()

    @wraps(program)
    def call(params: Params, batch: Rows) -> Out:
        length = batch.ids.shape[-1]
        if length in met:
            return program(params, batch)
        met.add(length)
        with doing(compiling(what, length, len(met), len(lengths))):
            return program(params, batch)

    return call


def compiling(what: str, length: int, number: int, lengths: int) -> str:
    """What is said while a program is compiled for one more length of texts, the `number`-th of so many, 0: not known.

    >>> compiling("the step", 64, 2, 5)
    'compiling the step for texts of 64 tokens, length 2 of 5'
    """
    return f"compiling {what} for texts of {length} tokens" + (f", length {number} of {lengths}" if lengths else "")


class Compiled:
    """Says when a run's programs are compiled: one a stream and padded length, at the first batch of it.

    `lengths` are those that the batches of each stream may have.
    """

    def __init__(self, lengths: Mapping[str, Sequence[int]]) -> None:
        self.lengths = lengths
        self.met: dict[str, set[int]] = {stream: set() for stream in lengths}

    def on(self, batch: "Mapping[str, Text]") -> AbstractContextManager[Work | None]:
        """Around the step on a batch, by stream: what is compiled for its shapes is said."""
        said = []
        for stream, rows in batch.items():
            length, met = rows.ids.shape[-1], self.met[stream]
            if length not in met:
                met.add(length)
                said.append(f"{stream} {length} tokens, length {len(met)} of {len(self.lengths[stream])}")
        return doing(f"compiling the step ({'; '.join(said)})") if said else nullcontext()
