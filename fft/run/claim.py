"""The folder of a run: of one process at a time, and of one experiment for good."""

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
    """A finished run: its folder and what run.json says."""

    directory: Path
    record: dict[str, Any]
    __repr__ = brief

    @property
    def exit_code(self) -> int:
        """0 every original task was kept (or none was watched), 1 one was not, 4 undecided."""
        verdict, contract = self.record["verdict"], self.record.get("contract")
        if contract is not None and not contract["met"]:
            return retention.EXIT_CODES["fail"]
        return 0 if verdict is None else retention.EXIT_CODES[verdict["outcome"]]


class RunFolder:
    """The folder of a run for as long as the block runs: locked, of one experiment, and perhaps `finished`.

    A folder that an earlier call has claimed is locked and compared at once, a new one by `claim`, so that input that
    is refused before that leaves no trace.

        with RunFolder("runs/1", experiment) as folder:
            if folder.finished: ...           # nothing is left to do
            with folder.claim(identity): ...  # from here on it is written to

    Raises: InputError for a folder of something else, or of another experiment, with the difference.
    """

    def __init__(self, directory: str | Path, experiment: Experiment) -> None:
        self.path, self.experiment = Path(local(directory, "--out")), experiment
        self.finished: Run | None = None
        self._held = ExitStack()

    def __enter__(self) -> "RunFolder":
        refuse_foreign(self.path, EXPERIMENT)
        if not (self.path / EXPERIMENT).exists():
            refuse_taken(self.path)
            return self
        with ExitStack() as held:
            self._lock(held)
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    @contextmanager
    def claim(self, identity: dict[str, Any]) -> Iterator[None]:
        """Write down what the folder is of: the experiment, and the weights and data that `identity` hashes.

        Input that is refused in the block leaves a folder that was new empty. Where another process was faster, the run
        may be `finished`.
        """
        new = not (self.path / EXPERIMENT).exists()
        with unclaimed_if_refused(self.path, EXPERIMENT):
            if new:
                self._lock(self._held)
            if not self.finished:
                agree(self.path / "identity.json", identity, "a run on other weights or data")
            yield

    def _lock(self, held: ExitStack) -> None:
        """Lock the folder, compare the experiment, and see whether the run is finished."""
        held.enter_context(FolderLock(self.path))
        agree(self.path / EXPERIMENT, self.experiment.to_json(), "another experiment", completed)
        if (self.path / FINISHED).exists():
            self.finish(with_defaults(read_object(self.path / FINISHED)))

    def finish(self, record: dict[str, Any]) -> Run:
        """The run of a folder whose run.json is there. Nothing goes on from its saved steps any more, so what that
        would need is deleted; what a kill leaves of it, the next call deletes.
        """
        if self.experiment.retention.checkpoints == "tidy":
            lasting = {record[name] for name in ("best_step", "kept_step", "steps")}
            Checkpoints(self.path / CHECKPOINTS).reduce(lasting)
        self.finished = Run(self.path, record)
        return self.finished
