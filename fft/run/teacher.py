"""The base of a run as a teacher (fft.methods.context.Teacher), and the Context that its method sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast

import jax
import numpy as np

from fft import models
from fft.core.computation import PRECISE
from fft.core.naming import ORIGINAL
from fft.data.batches import Batches
from fft.data.streams import original_batches
from fft.evaluate.teacher import base_likeliest, base_part
from fft.methods import Context
from fft.models import Checkpoint
from fft.run.accepted import Accepted
from fft.run.fillin import PseudoRows, find_filler, pseudo_rows
from fft.run.restored import restored
from fft.tasks import Language, Task


@dataclass(frozen=True)
class BaseTeacher:
    """The base as a teacher: its outputs on the rows of the streams that a run reads."""

    checkpoint: Checkpoint
    task: Task | None
    """the original task"""
    batches: Mapping[str, Batches]
    steps: int
    """of the run; only the rows that these steps read are computed"""
    poll: Callable[[], None]

    def outputs(self, stream: str, part: Literal["logits", "pooled"]) -> np.ndarray:
        """See fft.methods.context.Teacher."""
        return base_part(self.checkpoint, self.task, part, self.batches[stream], self.steps, self.poll)

    def likeliest(self, stream: str, count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """See fft.methods.context.Teacher."""
        task, batches = cast("Language", self.task), self.batches[stream]
        return base_likeliest(self.checkpoint, task, batches, self.steps, count, temperature, self.poll)

    def check_filler(self, source: str | None) -> None:
        """See fft.methods.context.Teacher."""
        find_filler(source, self.checkpoint.folder)

    def pseudo_rows(self, stream: str, source: str | None, share: float, key: jax.Array) -> PseudoRows:
        """See fft.methods.context.Teacher."""
        rows = self.batches[stream]
        return pseudo_rows(self.checkpoint, self.task, rows, self.steps, source, share, key, self.poll)


def context_of(
    accepted: Accepted,
    checkpoint: Checkpoint,
    batches: Mapping[str, Batches] = MappingProxyType({}),
    steps: int = 1,
    is_trained: Callable[[str], bool] = lambda path: True,
    poll: Callable[[], None] = lambda: None,
) -> Context:
    """Return the Context of an accepted experiment's method, which measures its statistics in float32.

    For the method's `check`, `checkpoint` is as loaded and the rest is left at its defaults; for `prepare` it has every
    head of the run, and the batches of its streams, its steps and its trained leaves are given.
    """
    streams, seed = accepted.streams, accepted.experiment.seed
    original, task = streams.get(ORIGINAL), accepted.original_task
    precise = models.computed(checkpoint, PRECISE)
    return Context(
        precise.model,
        precise.params,
        accepted.names.fresh,
        task,
        None if original is None else lambda n, size: original_batches(original, n, seed, size),
        {name: len(rows.splits["train"].ids) for name, rows in streams.items()},
        accepted.identity["base_sha256"],
        {name: rows.identity["train"] for name, rows in streams.items()},
        fitted=any(accepted.checkpoint.head(name) is None for name in accepted.names.originals),
        teacher=BaseTeacher(checkpoint, task, batches, steps, poll),
        earlier=restored,
        steps=steps,
        is_trained=is_trained,
        poll=poll,
        new=streams["new"].task,
        fixed_tokens=frozenset(name for name, rows in streams.items() if rows.splits["train"].targets_stay),
    )
