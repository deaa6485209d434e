"""The inputs of a method's functions before the first step of a run."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Batch
from fft.core.network import Network, on_host, outputs_of
from fft.core.tree import Params, map_leaves
from fft.fisher.diagonal import Fisher, FisherPass, Running, diagonal_fisher
from fft.tasks import Task

if TYPE_CHECKING:
    from fft.models import Checkpoint

PREDICT_BATCH = 32


class PseudoTexts(Protocol):
    """Rows whose masked tokens are filled in; implemented by fft.run.fillin.PseudoRows."""

    @property
    def ids(self) -> np.ndarray:
        """int32 [N, T]"""
        ...

    @property
    def logits(self) -> np.ndarray:
        """the base's logits of the original head, [N, C]"""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """notes for the run's record"""
        ...


class EarlierRun(Protocol):
    """An earlier run, read from its folder; implemented by fft.run.restored.Restored."""

    @property
    def experiment(self) -> Any:
        """its fft.experiment.Experiment (which imports the methods, hence Any)"""
        ...

    @property
    def checkpoint(self) -> "Checkpoint":
        """its base, with every head"""
        ...

    @property
    def params(self) -> Params:
        """its final parameters"""
        ...

    @property
    def left(self) -> Callable[[], Params]:
        """a function that reads the arrays of Parts.leave"""
        ...


class Teacher(Protocol):
    """The base as teacher: its outputs for the rows of a stream; implemented by fft.run.teacher.BaseTeacher."""

    def outputs(self, stream: str, part: Literal["logits", "pooled"]) -> np.ndarray:
        """Return the base's "logits" of the original head, [N, C] or [N, T, C], or its "pooled" states, [N, D].

        Dropout is off; row i is that of the stream's training row i, zeros if no step of the run reads it.
        """
        ...

    def likeliest(self, stream: str, count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the base's `count` likeliest tokens and the logarithms of their probabilities at a temperature,
        [M, count] each, for the M targets of a language task's stream, in the order of Batch.numbers.
        """
        ...

    def check_filler(self, source: str | None) -> None:
        """Reject a masked language model (None: the base itself) that cannot fill in the base's tokens.

        Raises: InputError.
        """
        ...

    def pseudo_rows(self, stream: str, source: str | None, share: float, key: jax.Array) -> PseudoTexts:
        """Replace a share of the tokens of a stream's rows by draws from the masked language model `source`."""
        ...


class NoTeacher:
    """The placeholder in a context without a teacher; every call raises TypeError."""

    def outputs(self, stream: str, part: Literal["logits", "pooled"]) -> np.ndarray:
        raise TypeError("this context has no teacher, which its method needs: pass `teacher`")

    def likeliest(self, stream: str, count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        raise TypeError("this context has no teacher, which its method needs: pass `teacher`")

    def check_filler(self, source: str | None) -> None:
        raise TypeError("this context has no teacher, which its method needs: pass `teacher`")

    def pseudo_rows(self, stream: str, source: str | None, share: float, key: jax.Array) -> PseudoTexts:
        raise TypeError("this context has no teacher, which its method needs: pass `teacher`")


def _no_runs(folder: str) -> NoReturn:
    raise TypeError("this context has no earlier runs, which its method reads: pass `earlier`")


class Context(NamedTuple):
    """The inputs of a method before step 1: of `check` before a run is accepted, of `prepare` before it trains."""

    model: Network
    base: Params
    """the base parameters; in `prepare` with every head that the run uses"""
    fresh_heads: tuple[str, ...] = ()
    """names of the heads that are initialised at random and so have no original value"""
    original: Task | None = None
    """the task to preserve: the original data's, else that of the base's own head, else None"""
    batches: Callable[[int, int], Iterable[Batch]] | None = None
    """batches(n, B): at most n training rows of the original task, chosen by the seed, as host batches of B rows; None
    without original data"""
    rows: Mapping[str, int] = MappingProxyType({})
    """numbers of training rows of the tasks "original" and "new", where they exist"""
    base_sha256: str = ""
    """the hash of the base's weights as loaded"""
    identity: Mapping[str, dict] = MappingProxyType({})
    """the number and hash of the training rows, by task as in `rows`"""
    fitted: bool = False
    """whether the run first fits the original head, instead of using the base's own"""
    note: Callable[[str], None] = lambda text: None
    """adds a note to the run's record"""
    teacher: Teacher = NoTeacher()
    """the base's outputs for the rows of a stream"""
    earlier: Callable[[str], EarlierRun] = _no_runs
    """earlier(folder): the earlier run in a folder"""
    steps: int = 1
    """optimizer steps of the run"""
    is_trained: Callable[[str], bool] = lambda path: True
    """is_trained(path): whether the run trains this leaf"""
    poll: Callable[[], None] = lambda: None
    """called between batches; raises when the run is to stop"""
    new: Task | None = None
    """the new task"""
    fixed_tokens: frozenset[str] = frozenset()
    """the streams of whose rows tokens are predicted, the same ones in every epoch"""

    def is_fresh(self, path: str) -> bool:
        """Return whether a parameter belongs to a fresh head."""
        return path.startswith(tuple(f"heads/{name}/" for name in self.fresh_heads))

    def is_original(self) -> Params:
        """Return one scalar per leaf: 0 in fresh heads, 1 elsewhere."""
        return map_leaves(lambda path, leaf: jnp.float32(not self.is_fresh(path)), self.base)

    def predictions(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the base's logits [N, C] and the targets [N] of at most `n` training rows of the original task."""
        task, batches = self.original, self.batches
        assert task is not None and batches is not None  # called only by methods that need original data

        def logits_of(params: Params, batch: Batch) -> jax.Array:
            return task.logits(outputs_of(self.model, params, batch, read=(task.reads,)), batch)

        return on_host(logits_of, self.base, batches(n, PREDICT_BATCH), self.poll)[:2]

    def fisher(
        self,
        by: FisherPass,
        key: jax.Array,
        *,
        mesh: jax.sharding.Mesh | None = None,
        start: Running | None = None,
        watch: Callable[[Running], None] | None = None,
    ) -> tuple[Fisher, Task]:
        """Estimate the Fisher information of the original task at the base, without fresh heads.

        Also return the task, for regression with its σ. `mesh`, `start` and `watch` are as in `diagonal_fisher`.
        Raises: InputError as `diagonal_fisher` does.
        """
        task, batches = self.original, self.batches
        assert task is not None and batches is not None  # called only by methods that need original data
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
