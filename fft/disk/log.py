"""metrics.jsonl: the events of a run, one JSON object a line."""

import json
import os
from pathlib import Path
from typing import Self

from fft.disk.files import plain, replace_file, writing


class MetricsLog:
    """metrics.jsonl: one JSON object a line, each handed to the system as it is written, so that a kill loses none.

    A line torn by a kill in mid-write is dropped when the log is opened again.

        with MetricsLog(run / 'metrics.jsonl') as log:
            log.truncate_after(step)                       # on resume: what comes after will be written again
            log.write('train', step=10, loss=0.3)          # {"event": "train", "step": 10, "loss": 0.3}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 held until close()
            self._drop_torn_line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def write(self, event: str, step: int, **fields: object) -> None:
        """Append one event. Raises: MachineError on a full disk, and leaves no part of the line behind."""
        line = json.dumps(plain({"event": event, "step": step, **fields}), ensure_ascii=False).encode() + b"\n"
        start = os.fstat(self._file.fileno()).st_size
        with writing(self.path):
            try:
                if self._file.write(line) != len(line):
                    raise OSError(0, "the disk took only a part of the line")
            except OSError:
                self._file.truncate(start)
                raise

    def truncate_after(self, step: int) -> int:
        """Keep the events up to and with `step`; returns how many lines went (unreadable ones among them)."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if (found := _step_of(line)) is not None and found <= step]
        if len(kept) < len(lines):
            self._file.close()
            replace_file(self.path, b"".join(kept))
            with writing(self.path):
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 held until close()
        return len(lines) - len(kept)

    def events(self) -> set[tuple[str, int]]:
        """The events that can be read, as (name, step)."""
        lines = self.path.read_bytes().splitlines()
        return {(json.loads(line).get("event"), step) for line in lines if (step := _step_of(line)) is not None}

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)


def _step_of(line: bytes) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
