"""Whose folder it is: one process at a time, and one experiment for good."""

import fcntl
import os
from pathlib import Path

from fft.errors import InputError
from fft.record import diff, plain, read_object, write_json, writing

MODEL, ADAPTER = "model", "adapter"
"""where in it the result is: a checkpoint for transformers, or PEFT's files"""


class FolderLock:
    """Holds DIRECTORY/lock for as long as the block runs; the system lets go of it when the process ends or is killed.

    Raises InputError naming the other process when the folder is in use, MachineError when it cannot be written.

        with FolderLock(run_folder):
            ...
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        self._file = None

    def __enter__(self):
        if self.directory.is_file():
            raise InputError(f"{self.directory} is a file; choose a folder that is new, or one that this command made")
        path = self.directory / "lock"
        with writing(path):
            self.directory.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                file.close()
                raise InputError(
                    f"{self.directory} is in use by process {holder}: wait for it to end, or choose another folder"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        self._file = file
        return self

    def __exit__(self, *_):
        self._file.truncate(0)
        self._file.close()


def refuse_taken(out: Path) -> None:
    """Refuse a folder that holds anything but a lock, and what is no folder."""
    taken = [path.name for path in out.iterdir() if path.name != "lock"] if out.is_dir() else []
    if taken or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} holds something already{f' ({min(taken)})' if taken else ''}; choose another --out")


def agree(path: Path, wanted: dict, what: str) -> None:
    """Write `wanted` to `path`, or find it there already; refuse a folder that holds something else, with the diff."""
    wanted = plain(wanted)
    if not path.exists():
        write_json(path, wanted)
    elif changes := diff(read_object(path), wanted):
        lines = "\n  ".join(changes)
        raise InputError(f"{path.parent} holds {what}; choose another --out, or undo the change:\n  {lines}")
