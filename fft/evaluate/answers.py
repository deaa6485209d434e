"""The predictions of a model, example by example, with the label names of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fft.evaluate.written import told
from fft.stats.intervals import predictions
from fft.tasks import Answers, Language

if TYPE_CHECKING:
    from fft.data import Encoded
    from fft.tasks import Task


def answers(task: Task, rows: Encoded, logits: np.ndarray) -> list[dict]:
    """Return {"row", "label", "prediction", "logits"} for every example, in the order of `rows`; logits [N, C].

    `row` is the example's number in its source, counted from 1. Labels and predictions are named by `Task.called`; the
    prediction of logits that are not finite is None. For a language task it is {"row", "nll", "tokens", "right"}: the
    sum over the supervised tokens in nats, their number, and that of the tokens that are the likeliest. For answers see
    `fft.evaluate.written.told`.
    """
    if isinstance(task, Answers):
        return told(task, rows, logits)
    if isinstance(task, Language):
        nll, right = task.sums(logits)
        lines = zip(rows.numbers, nll, rows.example_targets(), right, strict=True)
        return [
            {"row": int(number), "nll": float(loss), "tokens": int(count), "right": int(hits)}
            for number, loss, count, hits in lines
        ]
    predicted = predictions(task.kind, logits)
    return [
        {"row": int(number), "label": task.called(label), "prediction": task.called(guess), "logits": values.tolist()}
        for number, label, guess, values in zip(rows.numbers, rows.labels, predicted, logits, strict=True)
    ]
