"""Data flags for several tasks at once, and for one whose source stands without its flag."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import tyro

from fft.core.settings import for_each
from fft.data.settings import KIND, Data

HEADS = tyro.conf.arg(metavar="NAME [NAME ...]", help_behavior_hint="")


@dataclass(frozen=True)
class UnnamedData(Data):
    """One task's data: where it is and which columns hold what."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC", help_behavior_hint="")]


@dataclass(frozen=True)
class SeveralData:
    """One source or several; each setting is one for all of them, or one a source."""

    # The fields are those of Data, with their texts, in the plural.
    source: Annotated[tuple[str, ...], tyro.conf.arg(name="", metavar="SRC [SRC ...]", help_behavior_hint="")] = ()
    """file:PATH (or a bare path: CSV, TSV, JSONL, Parquet), demo:NAME, tfds:NAME or hf:NAME"""
    validation: tuple[str | None, ...] = (None,)
    """a source for validation rows; without it they are split off by a hash of their text"""
    test: tuple[str | None, ...] = (None,)
    """a source for test rows; without it they are split off by a hash of their text"""
    text: tuple[str, ...] = (Data.text,)
    """the column that holds the text"""
    pair: tuple[str | None, ...] = (None,)
    """the column that holds the second text of a pair"""
    label: tuple[str, ...] = (Data.label,)
    """the column that holds the label or the target"""
    kind: Annotated[tuple[str, ...], KIND] = (Data.kind,)
    """what the label is"""
    metric: Annotated[tuple[str | None, ...], tyro.conf.arg(help_behavior_hint="")] = (None,)
    """accuracy, macro_f1, mcc; pearson, spearman, rmse (default: accuracy, or pearson for regression)"""
    name: Annotated[tuple[str | None, ...], tyro.conf.arg(help_behavior_hint="")] = (None,)
    """what the head of this task is called in the checkpoint (default: new or original)"""
    train_rows: tuple[int | None, ...] = (None,)
    """use at most this many training rows, chosen by the seed"""

    def each(self, flag: str) -> tuple[Data, ...]:
        """The data of every source; `flag` names them in errors.

        Raises: InputError for a setting that has neither one value nor one a source.
        """
        count = len(self.source)
        columns = {
            name: for_each(f"{flag}.{name.replace('_', '-')}", values, count, "source")
            for name, values in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(Data))
            if name != "source"
        }
        rows = zip(self.source, *columns.values(), strict=True)
        return tuple(Data(source, **dict(zip(columns, values, strict=True))) for source, *values in rows)

    @classmethod
    def of(cls, *tasks: Data) -> "SeveralData":
        """The tasks as settings in the plural; `each` gives them back."""
        if not tasks:
            return NO_SOURCES
        return cls(*(tuple(getattr(task, field.name) for task in tasks) for field in dataclasses.fields(Data)))


NO_SOURCES = SeveralData()
