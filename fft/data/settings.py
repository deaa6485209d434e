"""What a user says of data: where they are, which columns hold what, and of which kind the task is."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, at_least
from fft.tasks import KINDS

STRICT = {"extra": "forbid"}
"""of pydantic: a file of settings has no names that there are not"""
KIND = tyro.conf.arg(metavar=f"{{{','.join(KINDS)}}}")


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
    train_rows: int | None = None
    """use at most this many training rows, chosen by the seed"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.train_rows is not None:
            at_least("train_rows", self.train_rows, 1)


@dataclass(frozen=True)
class Texts:
    """Texts without labels, of the kind that the checkpoint knew before."""

    source: Annotated[str, tyro.conf.arg(name="", metavar="SRC", help_behavior_hint="")]
    """file:PATH (or a bare path: .txt with a text a line, CSV, TSV, JSONL, Parquet), demo:NAME, tfds:NAME or hf:NAME"""
    text: str = "text"
    """the column that holds the text"""
    pair: str | None = None
    """the column that holds the second text of a pair"""
    rows: int | None = None
    """use at most this many, chosen by the seed"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.rows is not None:
            at_least("unlabelled.rows", self.rows, 1)
