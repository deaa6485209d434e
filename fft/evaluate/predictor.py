"""The program that scores a task: a forward pass, or answers that the model writes."""

from collections.abc import Sequence
from typing import cast

import jax
import numpy as np

from fft.core.batch import Batch
from fft.core.network import Network, outputs_of
from fft.core.programs import shared
from fft.core.progress import announced
from fft.core.tree import Params
from fft.data.batches import eval_batches
from fft.data.streams import EVAL_BATCH
from fft.data.task_data import TaskData
from fft.evaluate.predict import Predictor, predict, score_batch
from fft.evaluate.written import Writing
from fft.models import Model
from fft.tasks import Answers, Task


def make_predict(model: Network, task: Task, lengths: Sequence[int] = ()) -> Predictor:
    """Return a f(params, batch) -> what the task's metric needs of every row, [B, W], without dropout.

    That is `task.score`, jitted with params as an argument, or for a task that `generates` the scores of the model's
    answers. Compilations for the `lengths` that batches may be padded to are shown as progress.
    """
    if isinstance(task, Answers):
        return Writing(cast("Model", model), task, lengths)
    return announced(_scores(model, task), "the scoring", lengths)


@shared
def _scores(model: Network, task: Task) -> Predictor:
    @jax.jit
    def scores(params: Params, batch: Batch) -> jax.Array:
        return task.score(outputs_of(model, params, batch, read=(task.reads,)), batch)

    return scores


def scored_logits(predictor: Predictor, params: Params, data: TaskData) -> np.ndarray:
    """Return the outputs [E, W] for the examples of data.splits["test"], in order; `predictor` is of `make_predict`."""
    rows = data.splits["test"]
    batches = eval_batches(rows, score_batch(rows, data.lengths, EVAL_BATCH), data.lengths, data.pad_id)
    return rows.summed(predict(predictor, params, batches, len(rows.ids)))
