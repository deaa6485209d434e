"""The base of a run as a teacher (fft.methods.context.Teacher), and the Context of its method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import jax
import numpy as np

from fft.core.naming import ORIGINAL
from fft.data import TrainBatches
from fft.data.streams import original_batches
from fft.evaluate.teacher import base_part
from fft.methods import Context
from fft.models import Checkpoint
from fft.run.accepted import Accepted
from fft.run.fillin import PseudoRows, find_filler, pseudo_rows
from fft.run.restored import restored
from fft.tasks import Task


@dataclass(frozen=True)
class BaseTeacher:
    """What the base answers to the rows of the streams that a run reads."""

    checkpoint: Checkpoint
    task: Task | None
    """the original task"""
    batches: Mapping[str, TrainBatches]
    steps: int
    """of the run: only rows that they read are answered"""
    poll: Callable[[], None]

    def outputs(self, stream: str, part: Literal["logits", "pooled"]) -> np.ndarray:
        """As fft.methods.context.Teacher says."""
        return base_part(self.checkpoint, self.task, part, self.batches[stream], self.steps, self.poll)

    def check_filler(self, source: str | None) -> None:
        """As fft.methods.context.Teacher says."""
        find_filler(source, self.checkpoint.folder)

    def pseudo_rows(self, stream: str, source: str | None, share: float, key: jax.Array) -> PseudoRows:
        """As fft.methods.context.Teacher says."""
        rows = self.batches[stream]
        return pseudo_rows(self.checkpoint, self.task, rows, self.steps, source, share, key, self.poll)


def context_of(
    accepted: Accepted,
    checkpoint: Checkpoint,
    batches: Mapping[str, TrainBatches] = MappingProxyType({}),
    steps: int = 1,
    is_trained: Callable[[str], bool] = lambda path: True,
    poll: Callable[[], None] = lambda: None,
) -> Context:
    """The Context of an accepted experiment: with its checkpoint as loaded what `check` sees, and what `prepare` sees
    with that which has every head, the batches of its streams, its steps and what it trains.
    """
    streams, seed = accepted.streams, accepted.experiment.seed
    original, task = streams.get(ORIGINAL), accepted.original_task
    return Context(
        checkpoint.model,
        checkpoint.params,
        accepted.names.fresh,
        task,
        None if original is None else lambda n, size: original_batches(original, n, seed, size),
        {name: len(rows.splits["train"].ids) for name, rows in streams.items()},
        accepted.identity["base_sha256"],
        {name: rows.identity["train"] for name, rows in streams.items()},
        fitted=not set(accepted.names.originals) <= set(accepted.checkpoint.heads),
        teacher=BaseTeacher(checkpoint, task, batches, steps, poll),
        earlier=restored,
        steps=steps,
        is_trained=is_trained,
        poll=poll,
    )
