"""The journal of a run: its event log, its messages to the caller, and its times."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from fft.core.allocator import release_freed_memory
from fft.core.progress import doing
from fft.disk.log import MetricsLog


class Journal:
    """Writes a run's events to metrics.jsonl and to the caller's `emit`, and adds up the wall time of its parts."""

    def __init__(self, path: Path, emit: Callable[[dict], None], seconds: dict[str, float]) -> None:
        self.log, self.emit = MetricsLog(path), emit
        self.seconds = dict(seconds)

    def say(self, text: str) -> None:
        """Emit a line for people; it is not logged."""
        self.emit({"event": "say", "text": text})

    def tell(self, event: str, step: int, **fields: object) -> None:
        """Log an event and emit it."""
        self.log.write(event, step, **fields)
        self.emit({"event": event, "step": step, **fields})

    @contextmanager
    def clock(self, part: str, text: str | None = None) -> Iterator[None]:
        """Add the block's wall time to `seconds[part]`; display `text` while it runs."""
        start = time.monotonic()
        try:
            with nullcontext() if text is None else doing(text):
                yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - start
            if part != "train":
                release_freed_memory()

    def resume(self, step: int, seconds: dict[str, float], expected: Collection[tuple[str, int]] = ()) -> None:
        """Remove the events after `step` from the log (-1: all of them) and add the seconds of the run so far.

        `expected` are the events up to `step` as (name, step); if the log lacks some, a warning says how many.
        """
        self.log.truncate_after(step)
        if lost := len(set(expected) - self.log.events()):
            self.say(
                f"warning: {self.log.path} lacks {lost} of the {len(expected)} steps and scores up to step {step}; "
                "the run continues, as its scores are also in the saved steps"
            )
        for part, spent in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + spent
