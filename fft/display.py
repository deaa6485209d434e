"""A run's progress on a console: a live bar with every task's scores on a terminal, plain lines elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fft.errors import InputError
from fft.naming import original_names
from fft.report.tables import parameter_table

PLAIN_LINES = 20


def tee(*shows: Callable[[dict], None]) -> Callable[[dict], None]:
    """One `show` that hands every event to all of some."""

    def show(event: dict) -> None:
        for each in shows:
            each(event)

    return show


class Board:
    """Writes the numbers of a run's events for TensorBoard: `with Board(folder) as board: run(..., board.show)`.

    Errors: InputError when the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError(
                "--tensorboard needs tensorboardX: install the extra, as in pip install '.[tensorboard]'"
            ) from None
        # The writer makes its folder at once; a run whose input is refused leaves none.
        self._open, self.writer = lambda: SummaryWriter(str(folder)), None

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.writer is not None:
            self.writer.close()

    def show(self, event: dict) -> None:
        """Write an event's numbers, `score/new` and the like, at its step."""
        if event["event"] not in ("step", "score"):
            return
        self.writer = self.writer or self._open()
        for name, value in event.items():
            if isinstance(value, float):
                self.writer.add_scalar(f"{event['event']}/{name}", value, event["step"])


class Display:
    """Shows the events of a run: `with Display(console) as display: run(experiment, out, display.show)`."""

    def __init__(self, console: Console, title: str = ""):
        self.console, self.title = console, title
        self.scores = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scores]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = None

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def show(self, event: dict) -> None:
        """Show one event."""
        getattr(self, f"_{event['event']}", lambda event: None)(event)

    def _say(self, event: dict) -> None:
        self.console.print(f"{self.title}{event['text']}", markup=False, highlight=False, soft_wrap=True)

    def _start(self, event: dict) -> None:
        counts = event["parameters"]
        if not self.title:
            self.console.print(parameter_table(counts["table"]))
        for note in event["notes"]:
            self._say({"text": f"note: {note}"})
        where = {"total": event["steps"], "completed": event["step"]}
        self.task = self.bar.add_task(escape(self.title or "training"), **where, rate="", scores="")

    def _step(self, event: dict) -> None:
        if self.console.is_terminal and self.task is not None:
            speed = self.bar.tasks[self.task].speed
            rate = f"{speed:.1f} steps/s" if speed else ""
            self.bar.update(self.task, completed=event["step"], rate=rate, scores=self.scores)
        elif event["step"] % max(1, event["steps"] // PLAIN_LINES) == 0:
            self._say({"text": f"step {event['step']}/{event['steps']} loss {event['loss']:.4f}"})

    def _score(self, event: dict) -> None:
        names = ["new", *original_names(event)]
        parts = [f"{name} {event[name]:.3f}" for name in names if event[name] is not None]
        self.scores = " ".join(parts)
        if self.task is not None:
            self.bar.update(self.task, scores=self.scores)
        self._say({"text": f"step {event['step']}: {', '.join(parts)} on the probe ({event['seconds']:.0f} s)"})
