"""A run's folder: one process at a time may use it, and it belongs to one experiment permanently."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fft.core.brief import brief
from fft.disk.checkpoint import Checkpoints
from fft.disk.files import read_object
from fft.disk.folder import (
    CHECKPOINTS,
    EXPERIMENT,
    RECORD,
    FolderLock,
    agree,
    refuse_foreign,
    refuse_taken,
    unclaimed_if_refused,
)
from fft.disk.local import local
from fft.experiment import Experiment, completed, with_defaults
from fft.stats import retention

FINISHED = "run.json"
"""written last: a folder that has it is a finished run"""


class Run(NamedTuple):
    """A finished run: its folder and the content of run.json."""

    directory: Path
    record: dict[str, Any]
    __repr__ = brief

    @property
    def exit_code(self) -> int:
        """0: every original task was preserved, or there is none; 1: one was not, or the contract was not met; 4:
        undecided.
        """
        verdict, contract = self.record["verdict"], self.record.get("contract")
        if contract is not None and not contract["met"]:
            return retention.EXIT_CODES["fail"]
        return 0 if verdict is None else retention.EXIT_CODES[verdict["outcome"]]


class RunFolder:
    """Context manager of a run's folder: locks it, checks that it is this experiment's, and tells if it is `finished`.

    An existing run's folder is locked and compared on entry, a new folder only by `claim`, so that input rejected
    before that leaves no trace.

        with RunFolder("runs/1", experiment) as folder:
            if folder.finished: ...           # nothing is left to do
            with folder.claim(identity): ...  # files are written from here on

    Raises: InputError for a folder of something else, or of another experiment, with the difference.
    """

    def __init__(self, directory: str | Path, experiment: Experiment) -> None:
        self.path, self.experiment = Path(local(directory, "--out")), experiment
        self.finished: Run | None = None
        self._lock_stack, self._locked = ExitStack(), False

    def __enter__(self) -> "RunFolder":
        refuse_foreign(self.path, EXPERIMENT)
        if not (self.path / EXPERIMENT).exists():
            refuse_taken(self.path)
            return self
        with ExitStack() as stack:
            stack.enter_context(FolderLock(self.path))
            self._compare()
            self._lock_stack, self._locked = stack.pop_all(), True
        return self

    def __exit__(self, *error: object) -> None:
        self._lock_stack.close()

    @contextmanager
    def claim(self, identity: dict[str, Any]) -> Iterator[None]:
        """Record in the folder which experiment it holds, and `identity`, the hashes of its weights and data.

        If the block raises InputError, a new folder is emptied again. If another process was faster, the run may be
        `finished`.

        Raises: InputError where the folder holds another experiment, or a run on other weights or data.
        """
        new = not self._locked  # another process may have claimed the folder since it was entered
        if new:
            self._lock_stack.enter_context(FolderLock(self.path))
        with unclaimed_if_refused(self.path, EXPERIMENT):
            if new:
                self._compare()
            if not self.finished:
                agree(self.path / "identity.json", identity, "a run on other weights or data")
            yield

    def _compare(self) -> None:
        """Compare the experiment with that of the locked folder, and load the run if it is finished."""
        agree(self.path / EXPERIMENT, self.experiment.to_json(), "another experiment", completed)
        if (self.path / FINISHED).exists():
            self.finish(with_defaults(read_object(self.path / FINISHED, RECORD)))

    def finish(self, record: dict[str, Any]) -> Run:
        """Return the finished run with this `record`, and tidy its checkpoints.

        A finished run is not resumed, so with "tidy" the saved states are reduced to the trained trees. If the process
        is killed on the way, the next call completes this.
        """
        if self.experiment.retention.checkpoints == "tidy":
            lasting = {record[name] for name in ("best_step", "kept_step", "steps")}
            Checkpoints(self.path / CHECKPOINTS).reduce(lasting)
        self.finished = Run(self.path, record)
        return self.finished
