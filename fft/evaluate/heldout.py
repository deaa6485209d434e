"""Scores of many parameter trees of one model on the validation and test rows of some tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import jax
import numpy as np
from numpy.typing import ArrayLike

from fft.core.batch import Batch
from fft.core.errors import UndecidableError
from fft.core.network import Network, outputs_of
from fft.core.progress import announced
from fft.core.tree import Params
from fft.data import Encoded, TaskData, bucket_lengths, eval_batches
from fft.data.streams import PROBE_SEED, chosen_rows
from fft.evaluate.predict import predict, score_batch
from fft.evaluate.predictor import make_predict
from fft.merging.formulas import interpolate_layers
from fft.models import Model
from fft.stats.intervals import predictions
from fft.stats.metrics import METRICS
from fft.tasks import Task

ROLES = ("validation", "test")


class HeldOut:
    """The validation and test rows of some tasks, batched once, and the programs that score parameters on them.

    `most` limits the number of rows of a split. The weights are an argument of the programs, and all tasks and splits
    share the padded lengths: a program is compiled once for each length, at most five times, however many trees
    are scored. Tasks that read pooled states share one program, every other task has its own. Interpolated trees are
    built one at a time. Measured on MiniLM and 2 CPU cores, in units of 21 plain evaluations: 21 interpolations one
    after the other 0.98, with `lax.map` over α inside the program 1.1, with `vmap` over α 1.5 to 1.7 and 21 times the
    memory.
    """

    def __init__(
        self,
        model: Model,
        data: dict[str, TaskData],
        poll: Callable[[], None] = lambda: None,
        most: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.poll, self.blend = poll, partial(interpolate_layers, blocks=model.depth)
        self.data = {name: task._replace(splits=_at_most(most, task.splits)) for name, task in data.items()}
        rows = {(name, role): task.splits[role] for name, task in self.data.items() for role in ROLES}
        lengths = bucket_lengths(np.concatenate([encoded.lengths() for encoded in rows.values()]))
        tasks = [task.task for task in self.data.values()]
        pooled = [task for task in tasks if task.reads == "pooled"]
        self._of_heads = _of_heads(model, pooled, lengths)
        self._own = {task: make_predict(model, task, lengths) for task in tasks if task not in pooled}
        self._batches = {
            at: list(eval_batches(encoded, score_batch(encoded, lengths), lengths, data[at[0]].pad_id))
            for at, encoded in rows.items()
        }

    def logits(self, params: Params, role: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Return the model's outputs (Task.score) [N, W] on a split, for all tasks or those in `names`."""
        return {name: self._logits(params, name, role) for name in (self.data if names is None else names)}

    def scores(self, params: Params, role: str = "validation", names: Iterable[str] | None = None) -> dict[str, float]:
        """Return the metric on a split, for all tasks or those in `names`."""
        scores = {}
        for name, logits in self.logits(params, role, names).items():
            metric = METRICS[self.data[name].task.metric]
            labels = self.data[name].splits[role].labels
            scores[name] = float(metric.function(labels, predictions(metric.kind, logits)))
        return scores

    def line(self, base: Params, tuned: Params, alphas: ArrayLike, role: str = "validation") -> dict[str, float]:
        """Return `scores` of θ* + α (θ − θ*), `alphas` [blocks + 2] as in `fft.merging.formulas.interpolate_layers`."""
        return self.scores(self.blend(base, tuned, np.asarray(alphas, np.float32)), role)

    def counts(self, role: str) -> dict[str, int]:
        """Return the number of rows of a split, by task."""
        return {name: len(task.splits[role].ids) for name, task in self.data.items()}

    def describe(self, role: str) -> str:
        """Return the number of rows of a split, by task, in words."""
        counts = " and ".join(f"{count:,} {name}" for name, count in self.counts(role).items())
        return f"{counts} {role} rows"

    def _logits(self, params: Params, name: str, role: str) -> np.ndarray:
        task, rows = self.data[name].task, self.data[name].splits[role]
        predictor = self._own.get(task, lambda params, batch: self._of_heads(params, batch)[task.name])
        return rows.summed(predict(predictor, params, self._batches[name, role], len(rows.ids), self.poll))


Scores = Callable[[Params, Batch], dict[str, jax.Array]]
"""f(params, batch) -> {head: scores [B, W]}"""


def _of_heads(model: Network, tasks: Sequence[Task], lengths: Sequence[int]) -> Scores:
    """Return the program that scores those of the tasks' heads that the parameters have."""

    def scores(params: Params, batch: Batch) -> dict[str, jax.Array]:
        outputs = outputs_of(model, params, batch)
        return {task.name: task.score(outputs, batch) for task in tasks if task.name in params["heads"]}

    return announced(jax.jit(scores), "the scoring", lengths)


def _at_most(most: Mapping[str, int], splits: dict[str, Encoded]) -> dict[str, Encoded]:
    """Return the splits, those named in `most` with a fixed random choice of at most that many rows."""
    return {
        role: rows.take(chosen_rows(len(rows.ids), most[role], PROBE_SEED)) if role in most else rows
        for role, rows in splits.items()
    }


def refuse_undefined(data: dict[str, TaskData], role: str) -> None:
    """Refuse a split on which a task's score is not defined for any model.

    Raises: UndecidableError that names the task and the reason.
    """
    for name, task in data.items():
        if reason := METRICS[task.task.metric].undefined(task.splits[role].labels):
            raise UndecidableError(
                f"the {role} rows of the {name} task cannot compare models: {reason}. Give rows with different labels"
            )
