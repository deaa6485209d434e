"""SIGTERM and SIGINT as a flag that loops check, so that a run saves before it ends."""

import signal
import threading
from types import FrameType
from typing import Self


class Stopped(Exception):
    """Raised to stop a run after a signal; `exit_code` is 128 + the signal's number."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped by {signal.Signals(exit_code - 128).name}; run the same command again to continue")
        self.exit_code = exit_code


class StopFlag:
    """Context in which SIGTERM and SIGINT only set a flag; the old handlers are restored afterwards.

    A second SIGINT raises KeyboardInterrupt, for a user who does not want to wait. Only the main thread receives
    signals: in another thread the context changes nothing and the flag stays unset.

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
        """143 after SIGTERM, 130 after SIGINT, None without a signal."""
        return None if self.requested is None else 128 + self.requested

    def check(self) -> None:
        """Raise Stopped after a signal; cheap enough to be called between batches."""
        if (code := self.exit_code) is not None:
            raise Stopped(code)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: the handler was not installed from Python, so Python cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _set(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self.requested = self.requested or int(number)
