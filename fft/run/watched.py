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
from fft.data.streams import held_out_sample
from fft.disk.artefact import load_artefact, save_artefact
from fft.evaluate.predictor import make_predict, scored_logits
from fft.evaluate.teacher import base_part
from fft.models import Checkpoint
from fft.stats.budget import JUDGED, Budget
from fft.stats.intervals import predictions
from fft.stats.metrics import METRICS
from fft.training.dual import PROBED, Watch

PROBED_SHARE = 0.5  # a forward pass over so many tokens takes a sixth of the step, and a document can be as long as one


class ProbeBatches(TrainBatches):
    """Batches of up to PROBED held-out rows of each original task, padded to few lengths as suits a run of `steps`
    steps; `row` indexes the rows of all tasks together. Rows whose tokens are predicted are as many as have
    PROBED_SHARE of the `step_tokens` tokens of a step, but one of each task at least.
    """

    def __init__(
        self, parts: Sequence[Encoded], seed: int, steps: int, pad_id: int, step_tokens: float = math.inf
    ) -> None:
        all_rows = joined(parts)
        lengths = bucket_lengths(all_rows.lengths(), steps=steps)
        tokens = PROBED_SHARE * step_tokens / len(parts)
        sizes = [_probed(part, tokens) for part in parts]
        self._parts = [TrainBatches(p, size, seed, lengths, pad_id) for p, size in zip(parts, sizes, strict=True)]
        self._starts = np.cumsum([0, *(len(part.ids) for part in parts[:-1])])
        super().__init__(all_rows, sum(sizes), seed, lengths, pad_id)

    def __len__(self) -> int:
        """Return the number of batches until every row has occurred."""
        return max(len(part) for part in self._parts)

    def rows(self, index: int) -> np.ndarray:
        pairs = zip(self._starts, self._parts, strict=True)
        return np.concatenate([start + part.rows(index) for start, part in pairs])


def _probed(part: Encoded, tokens: float) -> int:
    """Return how many of the rows a step reads, of `tokens` tokens in all if their tokens are predicted."""
    most = min(PROBED, len(part.ids))
    return most if part.targets is None else int(np.clip(tokens / part.lengths().mean(), 1, most))


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
            f"--max-drop {max_drop}: the original task has {counted(rows, 'validation row')}; it takes at least "
            f"{least} of them to see {max_drop}. Give more, --original.validation names a file of them, or a larger "
            "budget"
        )


def _refuse_one_value(max_drop: str, original: TaskData) -> None:
    """Refuse held-out rows on which the score is not defined, or whose regression targets are all equal."""
    labels, metric = _judged(original).labels, METRICS[original.task.metric]
    if reason := metric.undefined(labels) or KINDS[original.kind].constant(labels):
        raise UndecidableError(
            f"--max-drop {max_drop}: the validation rows of the original task cannot show a drop: {reason}. Give "
            "labelled rows that differ, --original.validation names a file of them, or leave --max-drop out"
        )


def _judged(original: TaskData) -> Encoded:
    """Return the validation rows on which a contract is monitored and decided."""
    return held_out_sample(original.splits["validation"], JUDGED)


def make_watch(
    drops: Sequence[str],
    checkpoint: Checkpoint,
    originals: Sequence[TaskData],
    steps: int,
    seed: int,
    step_tokens: float,
    folder: Path,
    poll: Callable[[], None],
) -> tuple[Watch, ProbeBatches]:
    """Return the Watch of a contract and the batches of its held-out rows, which later judge the run's points as well.

    The base's credit (Task.credit) on these rows is computed once and saved in FOLDER. `drops` are the budgets, one for
    each original task, as `Budget.parse` reads them, and `step_tokens` the tokens of the new task in a step.
    """
    parts = [_judged(data) for data in originals]
    batches = ProbeBatches(parts, seed, steps, originals[0].pad_id, step_tokens)
    rows, task = batches.encoded, together(originals).task
    scales = tuple(data.task.scale(part.labels) for data, part in zip(originals, parts, strict=True))
    scale = scales if len(set(scales)) > 1 else scales[0]
    counts = [len(part.ids) for part in parts]
    saved = load_artefact(folder) if (folder / "provenance.json").exists() else None
    if saved is None or saved[1]["rows"] != alone(counts):  # another version of fft may have chosen other rows
        outputs = base_part(checkpoint, task, "score", batches, len(batches), poll)
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
