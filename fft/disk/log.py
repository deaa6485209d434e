"""metrics.jsonl: the events of a run, one JSON object per line."""

import json
import os
from pathlib import Path
from typing import Self

from fft.disk.files import plain, replace_file, writing


class MetricsLog:
    """The event log metrics.jsonl, written without buffering, so that no event is lost if the process is killed.

    An incomplete last line, left by a kill during a write, is removed when the log is opened again.

        with MetricsLog(run / 'metrics.jsonl') as log:
            log.truncate_after(step)                       # on resume: later events will be written again
            log.write('train', step=10, loss=0.3)          # {"event": "train", "step": 10, "loss": 0.3}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 open until close()
            self._drop_torn_line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def write(self, event: str, step: int, **fields: object) -> None:
        """Append one event. Raises: MachineError on a full disk; no part of the line is left then."""
        line = json.dumps(plain({"event": event, "step": step, **fields}), ensure_ascii=False).encode() + b"\n"
        start = os.fstat(self._file.fileno()).st_size
        with writing(self.path):
            try:
                if self._file.write(line) != len(line):
                    raise OSError(0, "only a part of the line was written")
            except OSError:
                self._file.truncate(start)
                raise

    def truncate_after(self, step: int) -> int:
        """Remove the events after `step` and unreadable lines; return the number of lines removed."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        remaining = [line for line in lines if (number := _step_of(line)) is not None and number <= step]
        if len(remaining) < len(lines):
            self._file.close()
            replace_file(self.path, b"".join(remaining))
            with writing(self.path):
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 open until close()
        return len(lines) - len(remaining)

    def events(self) -> set[tuple[str, int]]:
        """Return the readable events as (name, step)."""
        lines = self.path.read_bytes().splitlines()
        return {(json.loads(line).get("event"), step) for line in lines if (step := _step_of(line)) is not None}

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            self._file.truncate(complete)


def _step_of(line: bytes) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
