"""Classification: one class name or number per row."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import agreeing
from fft.data.encoded import Encoded
from fft.data.kinds.labelled import Labelled
from fft.data.labels import class_texts, encode_labels, label_names, label_notes
from fft.data.missing import among_numbers, present, refuse_missing
from fft.data.rows import Rows
from fft.data.sources import ROLES
from fft.stats.metrics import METRICS
from fft.tasks import Classify, Task


class Classification(Labelled):
    """Reads labels that are one of C classes."""

    predicts = "classification"
    metric = "accuracy"
    what = "label"
    advice = "Give rows of two classes or more"

    def task(self, name: str, labels: tuple[str, ...] | None, metric: str, rows: Rows) -> Task:
        if labels is None:
            return Classify(name, encode_labels(rows)[1], metric)
        refuse_missing(rows, known=labels)
        return Classify(name, labels, metric)

    def encoded(self, task: Task, rows: Rows, numbers: bool) -> tuple[np.ndarray, list[str]]:
        labels, _ = encode_labels(rows, task.labels, numbers)
        return labels, label_notes(rows, task.labels, given=numbers)

    def least_rows(self, drop: float) -> int:
        return math.ceil(1 / drop)

    def training_notes(self, task: Task, rows: Mapping[str, Rows], splits: Mapping[str, Encoded]) -> list[str]:
        """Return notes on splits with a single class, and classes without a training row."""
        notes = super().training_notes(task, rows, splits)
        seen = {role: set(part.labels.tolist()) for role, part in splits.items()}
        for role in ROLES[1:]:
            if len(seen[role]) < 2 and not METRICS[task.metric].by_variation:
                count = len(rows[role].labels)
                subject = agreeing(count, "the only row has", f"all {count:,} rows have")
                notes.append(f"{role}: {subject} one label; its scores say little")
            if untaught := seen[role] - seen["train"]:
                names = ", ".join(repr(task.labels[at]) for at in sorted(untaught))
                notes.append(f"{role}: no training row has the label {names}")
        return notes

    def refusal(self, rows: Rows) -> str:
        if among_numbers(rows):
            rows = present(rows)
        try:
            if rows.labels:
                label_names(rows)
        except InputError as error:
            return str(error)
        return ""

    def summary(self, rows: Rows) -> dict[str, Any]:
        counts = Counter(class_texts(rows))
        return {"labels": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))}

    def values(self, rows: Rows) -> list[Any]:
        return class_texts(rows)
