"""Settings of data: the source, its columns, and the kind of task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from fft.core.bounds import Count, check_bounds
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, later
from fft.data.kinds import KINDS
from fft.data.kinds.answer import answer_columns
from fft.data.kinds.completion import COMPLETION, PROMPT
from fft.data.messages import chat_columns
from fft.data.rows import Columns
from fft.data.sources import open_source
from fft.disk.local import LOCAL
from fft.stats.metrics import METRICS

STRICT = {"extra": "forbid"}
"""for pydantic: reject unknown names in a settings file"""
KIND = tyro.conf.arg(metavar=f"{{{','.join(KINDS)}}}", help_behavior_hint="")
MetricName = Annotated[
    str | None,
    tyro.conf.arg(
        help="metric of every task of the matching kind (default: the first of each kind, such as accuracy or nats)",
        help_behavior_hint="",
    ),
]


@dataclass(frozen=True)
class Data:
    """The data of one task: its source and columns."""

    source: Annotated[str, tyro.conf.arg(name="", metavar="SRC", help_behavior_hint="")]
    """file:PATH (or a bare path: CSV, TSV, JSONL, JSON, Parquet; of plain text also a folder, or a pattern in quotes),
    demo:NAME, tfds:NAME or hf:NAME"""
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
    kind: Annotated[str | None, KIND] = None
    """kind of task (default: read off the columns: classification, text, completion, chat or answer; regression
    and mlm are named)"""
    loss: Literal["answers", "all"] = later("answers")
    """the tokens of a conversation, or of a prompt with its completion, that are learned and scored"""
    cut: Literal["end", "start", "split"] = later("end")
    """where a conversation, or a prompt with its completion, is cut that is longer than --max-length; split: into
    pieces that are all learned and scored"""
    chat_template: Annotated[str | None, LOCAL] = later(None)
    """a file with the Jinja chat template for conversations, in place of the tokenizer's; a model trained with --new's
    is saved with it"""
    max_new: Count = later(64)
    """the most tokens of an answer that the model writes: of the kind answer, for --samples of fft eval, and of
    those that fft check shows"""
    metric: Annotated[str | None, TELLS_DEFAULT] = None
    """metric: accuracy, macro_f1, mcc; for regression pearson, spearman, rmse; for text, completion and chat nats,
    perplexity, bits_per_byte, token_accuracy; for answer exact_match, squad_match, number_match (default: the first of
    its kind)"""
    name: Annotated[str | None, TELLS_DEFAULT] = None
    """name of this task's head in the checkpoint (default: new or original)"""
    train_rows: Count | None = None
    """maximum number of training rows, sampled with the seed"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
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


def kind_of(data: Data) -> str:
    """Return the kind of a task: the stated one, else the one that the columns of the source show.

    A label makes it a classification; without one, prompts with answers, conversations, prompts with completions, or
    texts alone are of the language kinds. Raises: InputError for a source that does not exist.
    """
    if data.kind is not None:
        return data.kind
    existing = open_source(data.source).columns()
    if data.label in existing:
        return "classification"
    if answer_columns(existing):
        return "answer"
    if chat_columns(existing):
        return "chat"
    if {PROMPT, COMPLETION} <= set(existing):
        return "completion"
    return "text" if existing == (data.text,) else "classification"


def with_kind(data: Data) -> Data:
    """Return the task with its kind stated. Raises: as `kind_of`."""
    return data if data.kind is not None else replace(data, kind=kind_of(data))


def columns_of(data: Data) -> Columns:
    """Return the columns of the source that are read for a task. Raises: as `kind_of`."""
    kind = KINDS[kind_of(data)]
    existing = open_source(data.source).columns() if kind.predicts == "language" else ()
    return kind.columns(Columns(data.text, data.pair, data.label), existing)


def column_notes(data: Data) -> list[str]:
    """Return notes on columns of the source that its kind could read but does not. Raises: as `kind_of`."""
    kind = KINDS[kind_of(data)]
    return kind.column_notes(open_source(data.source).columns()) if kind.predicts == "language" else []


def predicts_tokens(tasks: Sequence[Data]) -> bool:
    """Whether one of the tasks is of a language kind, so that the model's language head is used."""
    return any(KINDS[kind_of(task)].predicts == "language" for task in tasks)


def predicts_masked(tasks: Sequence[Data]) -> bool:
    """Whether one of the tasks hides tokens, which takes a masked language model."""
    return any(KINDS[kind_of(task)].masked for task in tasks)


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
        replace(task, metric=metric) if task.metric is None and KINDS[kind_of(task)].scored == kind else task
        for task in tasks
    )
    if not any(task.metric == metric for task in scored):
        raise InputError(
            f"--metric {metric} fits no task here: leave it out, or give a {kind} task that names no other metric"
        )
    return scored
