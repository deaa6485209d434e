"""How a contract is monitored during training: on held-out original rows, against the base's credit on each of them."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fft.core.errors import InputError, UndecidableError
from fft.core.naming import counted
from fft.core.settings import alone
from fft.data import Encoded, TaskData, TrainBatches, bucket_lengths, joined, together
from fft.data.kinds import KINDS
from fft.data.streams import PROBE_SEED, chosen_rows
from fft.disk.artefact import load_artefact, save_artefact
from fft.evaluate.predictor import make_predict, scored_logits
from fft.evaluate.teacher import base_part
from fft.models import Checkpoint
from fft.stats.budget import JUDGED, Budget
from fft.stats.intervals import predictions
from fft.stats.metrics import METRICS
from fft.training.dual import PROBED, Watch


class ProbeBatches(TrainBatches):
    """Batches of up to PROBED held-out rows of each original task, padded to few lengths as suits a run of `steps`
    steps; `row` indexes the rows of all tasks together.
    """

    def __init__(self, parts: Sequence[Encoded], seed: int, steps: int, pad_id: int) -> None:
        all_rows = joined(parts)
        lengths = bucket_lengths(all_rows.lengths(), steps=steps)
        sizes = [min(PROBED, len(part.ids)) for part in parts]
        self._parts = [TrainBatches(p, size, seed, lengths, pad_id) for p, size in zip(parts, sizes, strict=True)]
        self._starts = np.cumsum([0, *(len(part.ids) for part in parts[:-1])])
        super().__init__(all_rows, sum(sizes), seed, lengths, pad_id)

    def __len__(self) -> int:
        """Return the number of batches until every row has occurred."""
        return max(len(part) for part in self._parts)

    def rows(self, index: int) -> np.ndarray:
        pairs = zip(self._starts, self._parts, strict=True)
        return np.concatenate([start + part.rows(index) for start, part in pairs])


def check_budget(max_drop: str, original: TaskData) -> None:
    """Refuse a budget that no drop could exceed, or that is too small for the number of held-out rows.

    Raises: InputError for such a budget; UndecidableError for held-out rows that cannot show a drop: the score is not
    defined on them, or all have the same target.
    """
    budget, metric = Budget.parse(max_drop), METRICS[original.task.metric]
    if problem := KINDS[original.kind].unwatched(metric.name):
        raise InputError(f"--max-drop {max_drop}: a contract on a {original.kind} task {problem}")
    if math.isfinite(metric.bounds[1]):
        budget.biting_margin(metric, metric.bounds[1])
    _refuse_one_value(max_drop, original)
    rows, least = len(original.splits["validation"].ids), KINDS[original.kind].least_rows(budget.amount)
    if rows < least:
        raise InputError(
            f"--max-drop {max_drop}: the original task has {counted(rows, 'validation row')}, one of them is a drop of "
            f"{1 / rows:.3g}; it takes at least {least} of them to see {max_drop}. Give more, --original.validation "
            "names a file of them, or a larger budget"
        )


def _refuse_one_value(max_drop: str, original: TaskData) -> None:
    """Refuse held-out rows on which the score is not defined, or whose regression targets are all equal."""
    labels, metric = original.splits["validation"].labels, METRICS[original.task.metric]
    labels = labels[chosen_rows(len(labels), JUDGED, PROBE_SEED)]
    if reason := metric.undefined(labels) or KINDS[original.kind].constant(labels):
        raise UndecidableError(
            f"--max-drop {max_drop}: the validation rows of the original task cannot show a drop: {reason}. Give "
            "labelled rows that differ, --original.validation names a file of them, or leave --max-drop out"
        )


def make_watch(
    drops: Sequence[str],
    checkpoint: Checkpoint,
    originals: Sequence[TaskData],
    steps: int,
    seed: int,
    folder: Path,
    poll: Callable[[], None],
) -> tuple[Watch, ProbeBatches]:
    """Return the Watch of a contract and the batches of its held-out rows, which later judge the run's points as well.

    The base's credit (Task.credit) on these rows is computed once and saved in FOLDER. `drops` are the budgets, one for
    each original task, as `Budget.parse` reads them.
    """
    splits = [data.splits["validation"] for data in originals]
    parts = [rows.take(chosen_rows(len(rows.ids), JUDGED, PROBE_SEED)) for rows in splits]
    batches = ProbeBatches(parts, seed, steps, originals[0].pad_id)
    rows, task = batches.encoded, together(originals).task
    scales = tuple(data.task.scale(part.labels) for data, part in zip(originals, parts, strict=True))
    scale = scales if len(set(scales)) > 1 else scales[0]
    if not (folder / "provenance.json").exists():
        outputs = base_part(checkpoint, task, "score", batches, len(batches), poll)
        counts = [len(part.ids) for part in parts]
        of_rows = np.repeat(scales, counts)
        before = task.credit(jnp.asarray(outputs), jnp.asarray(rows.labels), of_rows)
        ends = np.cumsum(counts)
        scores = [
            _score(checkpoint, data._replace(splits={"test": part}), own)
            for data, part, own in zip(originals, parts, np.split(outputs, ends[:-1]), strict=True)
        ]
        budgets = map(Budget.parse, drops)
        margins = [
            budget.biting_margin(METRICS[data.task.metric], score)
            for budget, data, score in zip(budgets, originals, scores, strict=True)
        ]
        record = {"score": alone(scores), "margin": alone(margins), "rows": alone(counts)}
        save_artefact(folder, {"before": before}, record)
    tree, record = load_artefact(folder)
    margin = record["margin"]
    scores = tuple(np.atleast_1d(record["score"]).tolist())
    margin = tuple(margin) if isinstance(margin, list) else margin
    return Watch(task, jnp.asarray(tree["before"]), margin, scale, steps, scores), batches


def _score(checkpoint: Checkpoint, data: TaskData, outputs: np.ndarray) -> float:
    """Return the base's score on the test rows; `outputs` are its `Task.score` on them."""
    if data.task.generates:
        outputs = scored_logits(make_predict(checkpoint.model, data.task, data.lengths), checkpoint.params, data)
    metric = METRICS[data.task.metric]
    return float(metric.function(data.splits["test"].labels, predictions(metric.kind, outputs)))
