"""What a run tells while it goes."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from fft.core.progress import doing
from fft.disk.log import MetricsLog


class Journal:
    """What a run tells: metrics.jsonl, the caller's `emit`, and the wall seconds of each part."""

    def __init__(self, path: Path, emit: Callable[[dict], None], seconds: dict[str, float]) -> None:
        self.log, self.emit = MetricsLog(path), emit
        self.seconds = dict(seconds)

    def say(self, text: str) -> None:
        """A line for people; not kept."""
        self.emit({"event": "say", "text": text})

    def tell(self, event: str, step: int, **fields: object) -> None:
        """An event, kept."""
        self.log.write(event, step, **fields)
        self.emit({"event": event, "step": step, **fields})

    @contextmanager
    def clock(self, part: str, text: str | None = None) -> Iterator[None]:
        """Add the block's wall time to `seconds[part]`; `text` is shown while it runs."""
        start = time.monotonic()
        try:
            with nullcontext() if text is None else doing(text):
                yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - start

    def resume(self, step: int, seconds: dict[str, float], told: Collection[tuple[str, int]] = ()) -> None:
        """Forget events after `step` (-1: all of them) and add the seconds of the run so far.

        `told` are events up to `step` as (name, step); a warning says how many of them the log has lost.
        """
        self.log.truncate_after(step)
        if lost := len(set(told) - self.log.events()):
            self.say(
                f"warning: {self.log.path} has lost {lost} of the {len(told)} steps and scores up to step {step}; "
                "the run goes on, its scores are kept with the saved steps"
            )
        for part, spent in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + spent
