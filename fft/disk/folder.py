"""Ownership of output folders: one process at a time, and one experiment per folder."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Self, TextIO

from fft.core.errors import InputError
from fft.disk.files import diff, plain, read_object, write_json, writing
from fft.disk.locks import lock

MODEL, ADAPTER = "model", "adapter"
"""subfolders for the result: a checkpoint for transformers, or PEFT's files"""
CHECKPOINTS, LEFT, ROWS = "checkpoints", "left", "rows"
"""subfolders for the saved steps, for what the method leaves to later runs, and for the rows that the run has seen"""
EXPERIMENT, REQUEST, PLAN = "experiment.json", "request.json", "plan.json"
RECORD = ("experiment", "data", "new")
"""the objects in a run.json without which it is none"""
KINDS = {EXPERIMENT: "a run", REQUEST: "Fisher information", PLAN: "a sequence", "config.json": "a checkpoint"}
"""content of a folder by the file that claims it"""


class FolderLock:
    """Context that locks DIRECTORY/lock; the system releases the lock when the process ends or is killed.

    Raises: InputError naming the other process if the folder is in use, MachineError if it cannot be written
    or is on a file system without locks.

        with FolderLock(run_folder):
            ...
    """

    _file: TextIO

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def __enter__(self) -> Self:
        refuse_file(self.directory)
        path = self.directory / "lock"
        with writing(path):
            self.directory.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+")
            try:
                lock(file)
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
        _clear(_leftovers(self.directory))  # safe under the lock: no other process writes here
        return self

    def __exit__(self, *_: object) -> None:
        self._file.truncate(0)
        self._file.close()


def refuse_taken(out: Path, own: Collection[str] = (), unless: str | None = None) -> None:
    """Reject an output folder in use: it may hold only a lock, leftovers of killed processes and the files `own`.

    If it has the file `unless`, it holds a finished result, and the files `own` are rejected too.
    Raises: InputError naming a file that is in the way; as `refuse_file`.
    """
    refuse_file(out)
    if unless is not None and (out / unless).exists():
        own = ()
    ignored = {"lock", *own, *(path.name for path in _leftovers(out))}
    taken = [path.name for path in out.iterdir() if path.name not in ignored] if out.is_dir() else []
    if taken:
        raise InputError(f"{out} holds something already ({min(taken)}); choose another --out")


def refuse_file(out: Path) -> None:
    """Reject a path for a folder that is a file, is below a file, or is a broken link.

    Raises: InputError.
    """
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; choose a folder that is new, or that this command created")
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{path} is a link to {path.readlink()}, which does not exist; create that, or choose another folder"
            )


def _leftovers(out: Path) -> list[Path]:
    """Return the temporary files and folders of processes that were killed while writing."""
    return [path for pattern in (".*.tmp", ".*.partial-*") for path in out.glob(pattern)]


def refuse_foreign(out: Path, own: str) -> None:
    """Reject a folder that another kind of command has claimed: it holds a file of KINDS other than `own`.

    Raises: InputError.
    """
    for mark, what in KINDS.items():
        if mark != own and (out / mark).exists():
            raise InputError(f"{out} holds {what}; choose another --out")


@contextlib.contextmanager
def unclaimed_if_refused(out: Path, mark: str, unless: str | None = None) -> Iterator[None]:
    """Context that empties a new folder after an InputError, so that the corrected command may use it again.

    `mark` is the file that claims a folder: one that was claimed before is not emptied, nor one with the file `unless`.
    """
    claimed = (out / mark).exists()
    try:
        yield
    except InputError:
        if not (claimed or (unless is not None and (out / unless).exists())):
            _clear(path for path in out.iterdir() if path.name != "lock")
        raise


def _clear(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def agree(path: Path, expected: dict, what: str, complete: Callable[[dict], dict] = lambda stored: stored) -> None:
    """Write the JSON object `expected` to `path`, or check that the file there equals it.

    `complete(stored)` adds to a stored object the settings that did not exist when it was written.
    Raises: InputError with the differences, which says that the folder holds `what`.
    """
    expected = plain(expected)
    if not path.exists():
        write_json(path, expected)
    elif changes := diff(complete(read_object(path)), expected):
        lines = "\n  ".join(changes)
        raise InputError(f"{path.parent} holds {what}; choose another --out, or undo the change:\n  {lines}")
