"""SIGTERM and SIGINT as a flag the loops ask for, so that a run saves before it ends."""

import signal
import threading
from types import FrameType
from typing import Self


class Stopped(Exception):
    """The run was asked to stop; it ends with `exit_code`, 128 + the signal's number."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped by {signal.Signals(exit_code - 128).name}; the same command goes on")
        self.exit_code = exit_code


class StopFlag:
    """While the block runs, SIGTERM and SIGINT only set a flag; the old handlers come back afterwards.

    A second SIGINT raises KeyboardInterrupt, for a person who will not wait. Signals reach the main thread alone:
    in another thread the block changes nothing and the flag stays unset.

        with StopFlag() as stop:
            for batch in batches:
                ...
                stop.check()             # raises Stopped; or read stop.requested, save, and leave
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._before: dict = {}
        self._interrupted = False

    @property
    def exit_code(self) -> int | None:
        """143 after SIGTERM, 130 after SIGINT, None when nobody asked."""
        return None if self.requested is None else 128 + self.requested

    def check(self) -> None:
        """Raise Stopped when a stop was asked for. Cheap: to be called between batches, of scoring and Fisher too."""
        if (code := self.exit_code) is not None:
            raise Stopped(code)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: the handler was not installed from Python, and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _set(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self.requested = self.requested or int(number)
