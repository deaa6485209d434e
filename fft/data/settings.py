"""Settings of data: the source, its columns, and the kind of task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from fft.core.bounds import Count, check_bounds
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT
from fft.stats.metrics import METRICS
from fft.tasks import KINDS

STRICT = {"extra": "forbid"}
"""for pydantic: reject unknown names in a settings file"""
KIND = tyro.conf.arg(metavar=f"{{{','.join(KINDS)}}}")
MetricName = Annotated[
    str | None,
    tyro.conf.arg(
        help="metric of every task of the matching kind (default: accuracy, or pearson for regression)",
        help_behavior_hint="",
    ),
]


@dataclass(frozen=True)
class Data:
    """The data of one task: its source and columns."""

    source: Annotated[str, tyro.conf.arg(name="", metavar="SRC", help_behavior_hint="")]
    """file:PATH (or a bare path: CSV, TSV, JSONL, Parquet), demo:NAME, tfds:NAME or hf:NAME"""
    validation: str | None = None
    """source of the validation rows; without it, rows are split off by a hash of their text"""
    test: str | None = None
    """source of the test rows; without it, rows are split off by a hash of their text"""
    text: str = "text"
    """column of the text"""
    pair: str | None = None
    """column of the second text, for pairs of texts"""
    label: str = "label"
    """column of the label or target"""
    kind: Annotated[str, KIND] = "classification"
    """kind of task"""
    metric: Annotated[str | None, TELLS_DEFAULT] = None
    """metric: accuracy, macro_f1, mcc; for regression pearson, spearman, rmse (default: accuracy, or pearson for
    regression)"""
    name: Annotated[str | None, TELLS_DEFAULT] = None
    """name of this task's head in the checkpoint (default: new or original)"""
    train_rows: Count | None = None
    """maximum number of training rows, sampled with the seed"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        check_bounds(self)


@dataclass(frozen=True)
class Texts:
    """Unlabelled texts, similar to what the checkpoint was trained on."""

    source: Annotated[str, tyro.conf.arg(name="", metavar="SRC", help_behavior_hint="")]
    """file:PATH (or a bare path: .txt with one text per line, CSV, TSV, JSONL, Parquet), demo:NAME, tfds:NAME or
    hf:NAME"""
    text: str = "text"
    """column of the text"""
    pair: str | None = None
    """column of the second text, for pairs of texts"""
    rows: Count | None = None
    """maximum number of texts, sampled with the seed"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        check_bounds(self)


NO_DATA = Data("")
NO_TEXTS = Texts("")
"""Placeholders for data that the command line does not name."""


def repeated(tasks: Sequence[Data]) -> str | None:
    """Return the source of a task that is there twice, with the same columns; None without one."""
    columns = [(task.source, task.text, task.pair, task.label) for task in tasks]
    return next((source for at, (source, *_) in enumerate(columns) if columns[at] in columns[:at]), None)


def scored_by(metric: str | None, tasks: Sequence[Data]) -> tuple[Data, ...]:
    """Return the tasks with `metric` set on those of its kind that name no metric.

    Raises: InputError for an unknown metric, or one that fits no such task.
    """
    if metric is None:
        return tuple(tasks)
    if metric not in METRICS:
        raise InputError(f"--metric {metric} is unknown: choose from {', '.join(METRICS)}")
    kind = METRICS[metric].kind
    scored = tuple(
        replace(task, metric=metric) if task.metric is None and task.kind == kind else task for task in tasks
    )
    if not any(task.metric == metric for task in scored):
        raise InputError(
            f"--metric {metric} fits no task here: leave it out, or give a {kind} task that names no other metric"
        )
    return scored
