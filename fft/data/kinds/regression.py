"""Regression: one finite number per row."""

from typing import Any

import numpy as np

from fft.core.errors import InputError
from fft.data.kinds.labelled import Labelled
from fft.data.labels import encode_targets
from fft.data.missing import present, refuse_missing
from fft.data.rows import Rows
from fft.stats.metrics import METRICS
from fft.tasks import Regress, Task

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
UNLABELLED = "published splits without targets look like this: name a labelled split"


class Regression(Labelled):
    """Reads labels that are numeric targets."""

    predicts = "regression"
    metric = "pearson"
    what = "target"
    advice = UNLABELLED.capitalize()

    def task(self, name: str, labels: tuple[str, ...] | None, metric: str, rows: Rows) -> Task:
        refuse_missing(rows, "target")
        return Regress(name, metric)

    def encoded(self, task: Task, rows: Rows, numbers: bool) -> tuple[np.ndarray, list[str]]:
        return encode_targets(rows), []

    def undefined(self, labels: np.ndarray, reason: str | None) -> str | None:
        return f"{reason}; {UNLABELLED}" if reason and len(labels) > 1 else reason

    def constant(self, labels: np.ndarray) -> str | None:
        return f"all {len(labels):,} rows have the target {labels[0]:g}" if np.ptp(labels) == 0 else None

    def refusal(self, rows: Rows) -> str:
        rows = present(rows)
        try:
            return METRICS["pearson"].undefined(encode_targets(rows)) or ""
        except InputError as error:
            return str(error)

    def summary(self, rows: Rows) -> dict[str, Any]:
        """Return quantiles of the targets that are present; empty if they are not numbers (reported separately)."""
        try:
            targets = encode_targets(present(rows))
        except InputError:
            return {"targets": {}}
        return {"targets": {str(q): float(np.quantile(targets, q)) for q in QUANTILES} if len(targets) else {}}

    def values(self, rows: Rows) -> list[Any]:
        return list(rows.labels)
