"""What a user says of data: where they are, which columns hold what, and of which kind the task is."""

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
"""of pydantic: a file of settings has no names that there are not"""
KIND = tyro.conf.arg(metavar=f"{{{','.join(KINDS)}}}")
MetricName = Annotated[
    str | None,
    tyro.conf.arg(
        help="the score of every task that it fits (default: accuracy, or pearson for regression)",
        help_behavior_hint="",
    ),
]


@dataclass(frozen=True)
class Data:
    """One task's data: where it is and which columns hold what."""

    source: Annotated[str, tyro.conf.arg(name="", metavar="SRC", help_behavior_hint="")]
    """file:PATH (or a bare path: CSV, TSV, JSONL, Parquet), demo:NAME, tfds:NAME or hf:NAME"""
    validation: str | None = None
    """a source for validation rows; without it they are split off by a hash of their text"""
    test: str | None = None
    """a source for test rows; without it they are split off by a hash of their text"""
    text: str = "text"
    """the column that holds the text"""
    pair: str | None = None
    """the column that holds the second text of a pair"""
    label: str = "label"
    """the column that holds the label or the target"""
    kind: Annotated[str, KIND] = "classification"
    """what the label is"""
    metric: Annotated[str | None, TELLS_DEFAULT] = None
    """accuracy, macro_f1, mcc; pearson, spearman, rmse (default: accuracy, or pearson for regression)"""
    name: Annotated[str | None, TELLS_DEFAULT] = None
    """what the head of this task is called in the checkpoint (default: new or original)"""
    train_rows: Count | None = None
    """use at most this many training rows, chosen by the seed"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        check_bounds(self)


@dataclass(frozen=True)
class Texts:
    """Texts without labels, of the kind that the checkpoint knew before."""

    source: Annotated[str, tyro.conf.arg(name="", metavar="SRC", help_behavior_hint="")]
    """file:PATH (or a bare path: .txt with a text a line, CSV, TSV, JSONL, Parquet), demo:NAME, tfds:NAME or hf:NAME"""
    text: str = "text"
    """the column that holds the text"""
    pair: str | None = None
    """the column that holds the second text of a pair"""
    rows: Count | None = None
    """use at most this many, chosen by the seed"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        check_bounds(self)


NO_DATA = Data("")
NO_TEXTS = Texts("")
"""Sources that a command line did not name."""


def scored_by(metric: str | None, tasks: Sequence[Data]) -> tuple[Data, ...]:
    """The tasks, those without a metric of their own scored by `metric` where it fits their kind.

    Raises: InputError for a metric that does not exist, or that no task takes.
    """
    if metric is None:
        return tuple(tasks)
    if metric not in METRICS:
        raise InputError(f"--metric {metric}: unknown; known are {', '.join(METRICS)}")
    kind = METRICS[metric].kind
    found = tuple(replace(task, metric=metric) if task.metric is None and task.kind == kind else task for task in tasks)
    if not any(task.metric == metric for task in found):
        raise InputError(f"--metric {metric} scores {kind}, and no task here is {kind} without a metric of its own")
    return found
