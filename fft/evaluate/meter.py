"""Scores and losses of many parameter trees of one shape on the held-out rows of one task, and their differences."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fft.core.tree import Params
from fft.data import TaskData
from fft.data.streams import chosen_rows
from fft.evaluate.heldout import HeldOut
from fft.models import Model
from fft.stats.intervals import LEVEL, Change, Estimate, change_between, predictions
from fft.stats.metrics import METRICS
from fft.tasks import Task


class Answers(NamedTuple):
    """A model's logits [N, C] on N rows, and the loss of every row [N] in nats."""

    logits: np.ndarray
    losses: np.ndarray


class Meter:
    """Scores trees of one shape on a seeded choice of a task's test and validation rows, with shared compiled programs.

    `most` is {"test": rows, "validation": rows}; `watch(count)` is called with the number of trees scored so far. The
    loss is that of `task`, which must have the same name as the task of `data`.
    """

    def __init__(
        self, model: Model, data: TaskData, task: Task, most: dict[str, int], seed: int, watch: Callable[[int], None]
    ) -> None:
        splits = {role: data.splits[role] for role in most}
        splits = {role: rows.take(chosen_rows(len(rows.ids), most[role], seed)) for role, rows in splits.items()}
        self.task, self.metric, self.watch, self.count = task, METRICS[task.metric], watch, 0
        self.labels = {role: rows.labels for role, rows in splits.items()}
        self.rows = HeldOut(model, {"original": data._replace(splits=splits)})

    def answers(self, params: Params, role: str = "test") -> Answers:
        """Return the logits and losses of a tree on a split."""
        logits = self.rows.logits(params, role)["original"]
        losses = self.task.losses(jnp.asarray(logits), jnp.asarray(self.labels[role]))
        self.count += 1
        self.watch(self.count)
        return Answers(logits, np.asarray(losses, np.float64))

    def change(self, before: Answers, after: Answers) -> Change:
        """Return the change of the score on the test rows."""
        return change_between(self.metric, self.labels["test"], before.logits, after.logits)

    def signed(self, answers: Answers) -> float:
        """Return the score on the validation rows, with the sign at which higher is better."""
        guesses = predictions(self.metric.kind, answers.logits)
        return self.metric.sign * float(self.metric.function(self.labels["validation"], guesses))


def rise(before: Answers, after: Answers) -> Estimate:
    """Return the increase of the mean loss, with Student's paired 95 % interval; its ends are nan for a single row."""
    from scipy.stats import ttest_1samp

    differences = after.losses - before.losses
    if not differences.any():
        return Estimate(0.0, 0.0, 0.0)
    ends = (np.nan, np.nan)
    if len(differences) > 1:
        ends = ttest_1samp(differences, 0.0).confidence_interval(LEVEL)
    return Estimate(float(differences.mean()), *map(float, ends))
