"""What a model answered, example by example, in the names of its task; and as a file of JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fft.stats.intervals import predictions

if TYPE_CHECKING:
    from fft.data import Encoded
    from fft.tasks import Task


def answers(task: Task, rows: Encoded, logits: np.ndarray) -> list[dict]:
    """{"row", "label", "prediction", "logits"} of every example, in the order of `rows`; logits [N, C].

    `row` is the example's place in its source, counted from 1. Labels and predictions are what `Task.called` says: None
    for the prediction of logits that are not finite.
    """
    predicted = predictions(task.kind, logits)
    return [
        {"row": int(number), "label": task.called(label), "prediction": task.called(guess), "logits": values.tolist()}
        for number, label, guess, values in zip(rows.numbers, rows.labels, predicted, logits, strict=True)
    ]
