"""What a method may look at: before a run is accepted, and before its first step."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import jax
import numpy as np

from fft.core.batch import Batch, row_weight
from fft.core.network import Network, outputs_of
from fft.core.tree import Params
from fft.fisher.diagonal import Fisher, FisherPass, Running, diagonal_fisher
from fft.tasks import Task

if TYPE_CHECKING:
    from fft.data import TaskData
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
        """reads what its method left (Method.leave)"""
        ...


def _not_given(*_: object) -> NoReturn:
    raise TypeError("this context was made without what its method asks for")


class Context(NamedTuple):
    """What `Method.prepare` may look at: the base model and the original task, before step 1."""

    model: Network
    base: Params
    """the base parameters, every head included"""
    fresh_heads: tuple[str, ...]
    """names of the heads that start from noise: they have no original value to keep"""
    original: Task | None = None
    """the original task; there is one for a method that needs original data or a head"""
    batches: Callable[[int, int], Iterable[Batch]] | None = None
    """batches(n, B): a seeded choice of at most n training rows of the original task, as host batches of B rows; there
    are such for a method that needs original data"""
    rows: Mapping[str, int] = MappingProxyType({})
    """training rows of the tasks "original" and "new", where there are such tasks"""
    base_sha256: str = ""
    """of the base's weights as they were loaded"""
    note: Callable[[str], None] = lambda text: None
    """keeps a sentence for the run's record"""
    outputs: Callable[[str, str], np.ndarray] = _not_given
    """outputs(stream, "logits" of the original's head, [N, C] or [N, T, C], or "pooled", [N, D]): the base's, dropout
    off, at the places of a stream's training rows; zeros for rows that no step of the run will see"""
    pseudo_rows: Callable[[str, str | None, float, jax.Array], PseudoTexts] = _not_given
    """pseudo_rows(stream, filler, share, key): the stream's rows with a share of their tokens filled in"""
    restored: Callable[[str], EarlierRun] = _not_given
    """restored(folder): an earlier run"""
    steps: int = 1
    """optimizer steps of the run"""
    is_trained: Callable[[str], bool] = lambda path: True
    """whether the run trains the leaf of this path"""
    poll: Callable[[], None] = lambda: None
    """called between batches; raises when the run is asked to stop"""

    def is_fresh(self, path: str) -> bool:
        """Whether a parameter belongs to a fresh head."""
        return path.startswith(tuple(f"heads/{name}/" for name in self.fresh_heads))

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


class Given(NamedTuple):
    """What `Method.check` may look at: what a run is to be made of, before it writes anything."""

    base: Params
    """the base parameters as loaded, without heads that the run will make"""
    base_sha256: str
    original: "TaskData | None" = None
    """the data of the original task, where there are some"""
    kept: Task | None = None
    """the original task: that of the original data, else what the base's own head serves, else None"""
    fitted: bool = False
    """whether the original's head is still to be fitted"""
    find_filler: Callable[[str | None], Path] = _not_given
    """find_filler(source): the masked language model in a folder, None: the base; refuses one that does not fit it"""
    restored: Callable[[str], EarlierRun] = _not_given
    """restored(folder): an earlier run"""
