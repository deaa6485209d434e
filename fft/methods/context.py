"""What a method may look at: before a run is accepted, and before its first step."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from fft.core.tree import Params

PREDICT_BATCH = 32


class Context(NamedTuple):
    """What `Method.prepare` may look at: the base model and the original task, before step 1."""

    model: Any
    """the Model"""
    base: Params
    """the base parameters, every head included"""
    fresh_heads: tuple[str, ...]
    """names of the heads that start from noise: they have no original value to keep"""
    original: Any = None
    """the original task, or None"""
    batches: Callable[[int, int], Iterable[dict]] | None = None
    """batches(n, B): a seeded choice of at most n training rows of the original task, as host batches of B rows"""
    rows: Mapping[str, int] = MappingProxyType({})
    """training rows of the tasks "original" and "new", where there are such tasks"""
    base_sha256: str = ""
    """of the base's weights as they were loaded"""
    note: Callable[[str], None] = lambda text: None
    """keeps a sentence for the run's record"""
    outputs: Callable[[str, str], np.ndarray] | None = None
    """outputs(stream, "logits" of the original's head, [N, C], or "pooled", [N, D]): the base's, dropout off, at the
    places of a stream's training rows; zeros for rows that no step of the run will see"""
    pseudo_rows: Callable[[str, str | None, float, jax.Array], Any] | None = None
    """pseudo_rows(stream, filler, share, key): rows with a share of tokens filled in (fft.run.fillin.PseudoRows)"""
    restored: Callable[[str], Any] | None = None
    """restored(folder): an earlier run (fft.run.restored.Restored)"""
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
        """The base's logits [N, C] and the labels [N] of at most `n` training rows of the original task."""
        apply = jax.jit(lambda params, batch: self.original.logits(self.model.apply(params, batch), batch))
        logits, labels = [], []
        for batch in self.batches(n, PREDICT_BATCH):
            self.poll()
            real = batch["weight"] > 0
            logits.append(np.asarray(apply(self.base, batch))[real])
            labels.append(batch["label"][real])
        return np.concatenate(logits), np.concatenate(labels)


class Given(NamedTuple):
    """What `Method.check` may look at: what a run is to be made of, before it writes anything."""

    base: Params
    """the base parameters as loaded, without heads that the run will make"""
    base_sha256: str
    original: Any = None
    """the TaskData of the original task, or None"""
    kept: Any = None
    """the original task: that of the original data, else what the base's own head serves, else None"""
    fitted: bool = False
    """whether the original's head is still to be fitted"""
    find_filler: Callable[[str | None], Any] | None = None
    """find_filler(source): the masked language model in a folder, None: the base; refuses one that does not fit it"""
    restored: Callable[[str], Any] | None = None
    """restored(folder): an earlier run (fft.run.restored.Restored)"""
