"""Whose folder it is: one process at a time, and one experiment for good."""

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
"""where in it the result is: a checkpoint for transformers, or PEFT's files"""
CHECKPOINTS, LEFT, ROWS = "checkpoints", "left", "rows"
"""where in it the saved steps are; what later runs read of this one, if its method leaves anything; and which rows it
has seen
"""
EXPERIMENT, REQUEST, PLAN = "experiment.json", "request.json", "plan.json"
KINDS = {EXPERIMENT: "a run", REQUEST: "Fisher information", PLAN: "a sequence", "config.json": "a checkpoint"}
"""what a folder holds by the file that claims it"""


class FolderLock:
    """Holds DIRECTORY/lock for as long as the block runs; the system lets go of it when the process ends or is killed.

    Raises: InputError naming the other process when the folder is in use, MachineError when it cannot be written
    or lies on a file system without locks.

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
        _clear(_leftovers(self.directory))  # nobody else writes here now
        return self

    def __exit__(self, *_: object) -> None:
        self._file.truncate(0)
        self._file.close()


def refuse_taken(out: Path, own: Collection[str] = (), unless: str | None = None) -> None:
    """Refuse a folder that holds anything but a lock, files of one's `own` and leftovers of a kill, and what is no
    folder or lies below a file. Once the file `unless` is there, one's own are somebody's result and not taken over.
    """
    refuse_file(out)
    if unless is not None and (out / unless).exists():
        own = ()
    left = {"lock", *own, *(path.name for path in _leftovers(out))}
    taken = [path.name for path in out.iterdir() if path.name not in left] if out.is_dir() else []
    if taken:
        raise InputError(f"{out} holds something already ({min(taken)}); choose another --out")


def refuse_file(out: Path) -> None:
    """Refuse a file where a folder is to be, or on the way to it, and a link to what is not there."""
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; choose a folder that is new, or one that this command made")
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link to {path.readlink()}, which does not exist; make it, or choose another")


def _leftovers(out: Path) -> list[Path]:
    """What a process that was killed was writing under another name."""
    return [path for pattern in (".*.tmp", ".*.partial-*") for path in out.glob(pattern)]


def refuse_foreign(out: Path, own: str) -> None:
    """Refuse a folder that holds one of KINDS, other than the one whose file is `own`."""
    for mark, what in KINDS.items():
        if mark != own and (out / mark).exists():
            raise InputError(f"{out} holds {what}; choose another --out")


@contextlib.contextmanager
def unclaimed_if_refused(out: Path, mark: str, unless: str | None = None) -> Iterator[None]:
    """Input that is refused in the block leaves nothing in a folder that was new, so that the corrected call may name
    it again. `mark` is the file that claims the folder; once the file `unless` is there all stays.
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


def agree(path: Path, wanted: dict, what: str, complete: Callable[[dict], dict] = lambda stored: stored) -> None:
    """Write `wanted` to `path`, or find it there already; refuse a folder that holds something else, with the diff.

    `complete(stored)` fills in what a file lacks that was written before there was such a setting.
    """
    wanted = plain(wanted)
    if not path.exists():
        write_json(path, wanted)
    elif changes := diff(complete(read_object(path)), wanted):
        lines = "\n  ".join(changes)
        raise InputError(f"{path.parent} holds {what}; choose another --out, or undo the change:\n  {lines}")
