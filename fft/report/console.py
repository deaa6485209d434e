"""Shows progress and the events of a run on a console: live bars on a terminal, plain lines elsewhere."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fft.core.errors import InputError
from fft.core.naming import original_names
from fft.core.progress import Unshown, Work, doing, shown_on
from fft.report.parameters import parameter_table

QUIET, LOOK = 6.0, 0.5
"""seconds: print a line after QUIET without output, which is checked every LOOK"""
PLAIN_LINES = 20


def tee(*shows: Callable[[dict], None]) -> Callable[[dict], None]:
    """Return a function that passes each event to all of `shows`."""

    def show(event: dict) -> None:
        for receive in shows:
            receive(event)

    return show


class Board:
    """Writes the numbers in a run's events for TensorBoard: `with Board(folder) as board: run(..., board.show)`.

    Raises: InputError if the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError(
                "--tensorboard needs tensorboardX: install the extra, as in pip install '.[tensorboard]'"
            ) from None
        # The writer creates its folder at once, so it is opened late: a rejected run must leave no folder.
        self._open, self.writer = lambda: SummaryWriter(str(folder)), None

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def show(self, event: dict) -> None:
        """Write an event's numbers at its step, under names such as `score/new`."""
        if event["event"] not in ("step", "score"):
            return
        self.writer = self.writer or self._open()
        for name, value in event.items():
            if isinstance(value, float):
                self.writer.add_scalar(f"{event['event']}/{name}", value, event["step"])


class _Count(MofNCompleteColumn):
    """The column `done/total`; empty if the total is unknown."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Bar:
    """The progress bar of one piece of work (fft.core.progress.Work)."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self.bars, self.task = bars, task

    def advance(self, steps: int = 1) -> None:
        self.bars.advance(self.task, steps)

    def update(
        self,
        completed: int | None = None,
        total: int | None = None,
        description: str | None = None,
        more: str | None = None,
    ) -> None:
        fields: dict[str, Any] = {} if more is None else {"more": more}
        self.bars.update(self.task, completed=completed, total=total, description=description, **fields)


class _Stamped:
    """Wraps a text file and records the time of the last write."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.written = file, time.monotonic()

    def write(self, text: str) -> int:
        self.written = time.monotonic()
        return self.file.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Progress:
    """Shows the work of the block (`fft.core.progress.doing`) on a console.

    On a terminal as live bars; elsewhere as a line with the current work, its progress and time after every QUIET
    seconds without output.
    """

    def __init__(self, console: Console, text: str = "working") -> None:
        self.console, self.text = console, text
        self.bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            _Count(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[more]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._open = contextlib.ExitStack()

    def begin(self, text: str, total: int | None, completed: int) -> _Bar:
        """Add the bar of a piece of work."""
        return _Bar(self.bars, self.bars.add_task(text, total=total, completed=completed, more=""))

    def end(self, work: Work) -> None:
        """Remove the bar of a piece of work."""
        if isinstance(work, _Bar):
            self.bars.remove_task(work.task)

    def __enter__(self) -> "Progress":
        self._open.enter_context(shown_on(self))
        self._open.enter_context(doing(self.text))
        if self.console.is_terminal:
            self._open.enter_context(self.bars)
        else:
            self._open.enter_context(self._break_silence())
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @contextlib.contextmanager
    def _break_silence(self) -> Iterator[None]:
        """Run a thread that prints a line after every long silence."""
        plain, stop = self.console.file, threading.Event()
        stamped = _Stamped(plain)
        self.console.file = cast("IO[str]", stamped)  # a stand-in through its __getattr__
        watching = threading.Thread(target=self._watch, args=(stamped, stop), daemon=True)
        watching.start()
        try:
            yield
        finally:
            stop.set()
            watching.join()
            self.console.file = plain

    def _watch(self, stamped: _Stamped, stop: threading.Event) -> None:
        while not stop.wait(LOOK):
            if time.monotonic() - stamped.written >= QUIET:
                try:
                    self.console.print(f"… {self.line()}", markup=False, highlight=False, soft_wrap=True)
                except OSError:
                    return  # the reader has gone; the next print of the command handles it

    def line(self) -> str:
        """Return the current work and its progress in words."""
        tasks = self.bars.tasks
        if not tasks:  # the block is just ending
            return self.text
        parts = tasks[1:] or tasks
        first, last = parts[0], parts[-1]
        names, so_far = ", ".join(part.description for part in parts), f"{first.elapsed:.0f} s so far"
        if not last.total:
            return f"{names}: {last.completed:,.0f}, {so_far}" if last.completed else f"{names}, {so_far}"
        left = f", about {last.time_remaining:.0f} s left" if last.time_remaining else ""
        return f"{names}: {last.completed:,.0f} of {last.total:,.0f}, {so_far}{left}"


class Display:
    """Shows the events of a run: `with Display(console) as display: run(experiment, out, display.show)`.

    Steps advance a bar of the active Progress on a terminal; elsewhere PLAIN_LINES of them are printed.
    """

    def __init__(self, console: Console, title: str = "") -> None:
        self.console, self.title = console, title
        self._open = contextlib.ExitStack()
        self._work: Work = Unshown()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def show(self, event: dict) -> None:
        """Show an event."""
        getattr(self, f"_{event['event']}", lambda event: None)(event)

    def _say(self, event: dict) -> None:
        self.console.print(f"{self.title}{event['text']}", markup=False, highlight=False, soft_wrap=True)

    def _start(self, event: dict) -> None:
        counts = event["parameters"]
        if not self.title:
            self.console.print(parameter_table(counts["table"]))
        for note in event["notes"]:
            self._say({"text": f"note: {note}"})
        self._work = self._open.enter_context(doing(f"{self.title}training", event["steps"], event["step"]))

    def _step(self, event: dict) -> None:
        self._work.update(completed=event["step"])
        if event["step"] == event["steps"]:
            self._end(event)
        if not self.console.is_terminal and event["step"] % max(1, event["steps"] // PLAIN_LINES) == 0:
            self._say({"text": f"step {event['step']}/{event['steps']} loss {event['loss']:.4f}"})

    def _score(self, event: dict) -> None:
        names = ["new", *original_names(event)]
        parts = [f"{name} {event[name]:.3f}" for name in names if event[name] is not None]
        self._work.update(more=" ".join(parts))
        if parts:  # a new head has no score before it is trained
            self._say({"text": f"step {event['step']}: {', '.join(parts)} on the probe ({event['seconds']:.0f} s)"})

    def _end(self, event: dict) -> None:
        self._work = Unshown()
        self._open.close()
