"""What a method may look at before the first step of a run."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Batch, row_weight
from fft.core.network import Network, outputs_of
from fft.core.tree import Params, map_leaves
from fft.fisher.diagonal import Fisher, FisherPass, Running, diagonal_fisher
from fft.tasks import Task

if TYPE_CHECKING:
    from fft.models import Checkpoint

PREDICT_BATCH = 32


class PseudoTexts(Protocol):
    """Rows with tokens filled in; fft.run.fillin.PseudoRows."""

    @property
    def ids(self) -> np.ndarray:
        """int32 [N, T]"""
        ...

    @property
    def logits(self) -> np.ndarray:
        """the base's of the original head, [N, C]"""
        ...

    @property
    def told(self) -> tuple[str, ...]:
        """what is to be said of them"""
        ...


class EarlierRun(Protocol):
    """An earlier run as its folder holds it; fft.run.restored.Restored."""

    @property
    def experiment(self) -> Any:
        """its fft.experiment.Experiment, which is built on methods"""
        ...

    @property
    def checkpoint(self) -> "Checkpoint":
        """its base, with every head"""
        ...

    @property
    def params(self) -> Params:
        """the parameters that it left"""
        ...

    @property
    def left(self) -> Callable[[], Params]:
        """reads what its method left (Parts.leave)"""
        ...


class Teacher(Protocol):
    """The base as it answers to the rows of a stream; fft.run.teacher.BaseTeacher."""

    def outputs(self, stream: str, part: Literal["logits", "pooled"]) -> np.ndarray:
        """The base's "logits" of the original's head, [N, C] or [N, T, C], or its "pooled" states, [N, D], dropout off,
        at the places of a stream's training rows; zeros for rows that no step of the run will see.
        """
        ...

    def check_filler(self, source: str | None) -> None:
        """Refuse a masked language model, None: the base itself, that cannot fill in the base's tokens."""
        ...

    def pseudo_rows(self, stream: str, source: str | None, share: float, key: jax.Array) -> PseudoTexts:
        """The rows of a stream with a share of their tokens filled in by the masked language model `source`."""
        ...


class NoTeacher:
    """The teacher of a context that was made without one."""

    def outputs(self, stream: str, part: Literal["logits", "pooled"]) -> np.ndarray:
        raise TypeError("this context was made without the teacher that its method asks")

    def check_filler(self, source: str | None) -> None:
        raise TypeError("this context was made without the teacher that its method asks")

    def pseudo_rows(self, stream: str, source: str | None, share: float, key: jax.Array) -> PseudoTexts:
        raise TypeError("this context was made without the teacher that its method asks")


def _no_runs(folder: str) -> NoReturn:
    raise TypeError("this context was made without the runs before that its method reads")


class Context(NamedTuple):
    """What a method may look at before step 1: in `check` before a run is accepted, in `prepare` before it trains."""

    model: Network
    base: Params
    """the base parameters; in `prepare` with every head that the run uses"""
    fresh_heads: tuple[str, ...] = ()
    """names of the heads that start from noise: they have no original value to keep"""
    original: Task | None = None
    """the task to preserve: that of the original data, else what the base's own head serves, else None"""
    batches: Callable[[int, int], Iterable[Batch]] | None = None
    """batches(n, B): a seeded choice of at most n training rows of the original task, as host batches of B rows; None
    without original data"""
    rows: Mapping[str, int] = MappingProxyType({})
    """training rows of the tasks "original" and "new", where there are such tasks"""
    base_sha256: str = ""
    """of the base's weights as they were loaded"""
    identity: Mapping[str, dict] = MappingProxyType({})
    """number and hash of the training rows of the tasks, as `rows`"""
    fitted: bool = False
    """whether the original's head is not the base's own but one that the run fits first"""
    note: Callable[[str], None] = lambda text: None
    """keeps a sentence for the run's record"""
    teacher: Teacher = NoTeacher()
    """the base's answers to the rows of a stream"""
    earlier: Callable[[str], EarlierRun] = _no_runs
    """earlier(folder): an earlier run"""
    steps: int = 1
    """optimizer steps of the run"""
    is_trained: Callable[[str], bool] = lambda path: True
    """whether the run trains the leaf of this path"""
    poll: Callable[[], None] = lambda: None
    """called between batches; raises when the run is asked to stop"""

    def is_fresh(self, path: str) -> bool:
        """Whether a parameter belongs to a fresh head."""
        return path.startswith(tuple(f"heads/{name}/" for name in self.fresh_heads))

    def is_original(self) -> Params:
        """One scalar a leaf: 1 where the base has a value worth keeping, 0 in fresh heads."""
        return map_leaves(lambda path, leaf: jnp.float32(not self.is_fresh(path)), self.base)

    def predictions(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The base's logits [N, C] and the targets [N] of at most `n` training rows of the original task."""
        task, batches = self.original, self.batches
        assert task is not None and batches is not None  # asked by methods that need original data
        apply = jax.jit(
            lambda params, batch: task.logits(outputs_of(self.model, params, batch, read=(task.reads,)), batch)
        )
        logits, targets = [], []
        for batch in batches(n, PREDICT_BATCH):
            self.poll()
            real = row_weight(batch.weight) > 0
            logits.append(np.asarray(apply(self.base, batch))[real])
            targets.append(batch.targets[real])
        return np.concatenate(logits), np.concatenate(targets)

    def fisher(
        self,
        by: FisherPass,
        key: jax.Array,
        *,
        mesh: jax.sharding.Mesh | None = None,
        start: Running | None = None,
        watch: Callable[[Running], None] | None = None,
    ) -> tuple[Fisher, Task]:
        """The Fisher information of the original task at the base, and the task with its σ; fresh heads take no part.

        `mesh`, `start` and `watch` are `diagonal_fisher`'s.
        """
        task, batches = self.original, self.batches
        assert task is not None and batches is not None  # asked by methods that need original data
        task = task.calibrated(lambda: self.predictions(by.samples))
        fisher = diagonal_fisher(
            self.model,
            task,
            self.base,
            batches(by.samples, by.batch_size),
            key,
            estimator=by.estimator,
            draws=by.draws,
            way=by.way,
            chunk=by.chunk,
            converged=by.converged,
            where=lambda path: not self.is_fresh(path),
            mesh=mesh,
            start=start,
            watch=watch or (lambda running: self.poll()),
            say=self.note,
        )
        return fisher, task
