"""What a run under a contract is watched by: held-out original rows, and what the base is worth on each."""

import math
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fft.artefact import load_artefact, save_artefact
from fft.budget import Budget
from fft.contract import PROBED, Watch
from fft.errors import InputError
from fft.evaluate import predictions
from fft.experiment import Experiment
from fft.metrics import METRICS
from fft.models import Checkpoint
from fft.streams import base_part, chosen_rows
from fft.tasks import TaskData, TrainBatches, bucket_lengths

WATCHED = 1024  # held-out original rows, at most


class ProbeBatches(TrainBatches):
    """Batches of held-out rows, each with "before" float32 [B], what the base was worth on it."""

    before: np.ndarray

    def batch(self, index: int) -> dict[str, np.ndarray]:
        batch = super().batch(index)
        return {**batch, "before": self.before[batch["row"]]}


def check_budget(max_drop: str, original: TaskData) -> None:
    """Refuse a budget that no drop could exceed, and one that the held-out rows are too few to see."""
    budget, metric = Budget.parse(max_drop), METRICS[original.task.metric]
    if math.isfinite(metric.bounds[1]):
        budget.biting_margin(metric, metric.bounds[1])
    rows, least = len(original.splits["validation"].ids), math.ceil(1 / budget.amount)
    if original.task.kind == "classification" and rows < least:
        raise InputError(
            f"--max-drop {max_drop}: the original task has {rows} validation rows, one of them is a drop of "
            f"{1 / rows:.3g}; it takes at least {least} of them to see {max_drop}. Give more, or a larger budget"
        )


def watched(
    experiment: Experiment,
    checkpoint: Checkpoint,
    original: TaskData,
    steps: int,
    folder: Path,
    poll: Callable[[], None],
) -> tuple[Watch, ProbeBatches]:
    """What the contract is watched by: held-out original rows with the base's credit, which is kept in FOLDER."""
    rows = original.splits["validation"]
    rows = rows.take(chosen_rows(len(rows.ids), WATCHED, experiment.seed))
    lengths = bucket_lengths(rows.lengths(), most=2)
    batches = ProbeBatches(rows, min(PROBED, len(rows.ids)), experiment.seed, lengths, original.pad_id)
    task, spread = original.task, float(np.var(rows.labels))
    if not (folder / "provenance.json").exists():
        logits = base_part(checkpoint, task, "logits", batches, len(batches), poll)
        before = task.credit(jnp.asarray(logits), jnp.asarray(rows.labels), spread)
        metric = METRICS[task.metric]
        score = float(metric.function(rows.labels, predictions(metric.kind, logits)))
        margin = Budget.parse(experiment.retention.max_drop).margin(score)
        save_artefact(folder, {"before": before}, {"score": score, "margin": margin, "rows": len(rows.ids)})
    tree, told = load_artefact(folder)
    batches.before = np.asarray(tree["before"])
    return Watch(task, told["margin"], spread, steps), batches
