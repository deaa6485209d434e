"""Data flags for several tasks at once, and for one task whose source is a positional argument."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fft.core.settings import for_each
from fft.data.settings import KIND, Data
from fft.disk.local import LOCAL

HEADS = tyro.conf.arg(metavar="NAME [NAME ...]", help_behavior_hint="")


@dataclass(frozen=True)
class UnnamedData(Data):
    """The data of one task: its source and columns."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC", help_behavior_hint="")]


@dataclass(frozen=True)
class SeveralData:
    """The data of one or more tasks; each setting has one value for all sources, or one per source."""

    # The fields are those of Data and their help texts, as tuples.
    source: Annotated[tuple[str, ...], tyro.conf.arg(name="", metavar="SRC [SRC ...]", help_behavior_hint="")] = ()
    """file:PATH (or a bare path: CSV, TSV, JSONL, JSON, Parquet; of plain text also a folder, or a pattern in quotes),
    demo:NAME, tfds:NAME or hf:NAME"""
    validation: tuple[str | None, ...] = (None,)
    """source of the validation rows; without it, rows are split off by a hash of their text"""
    test: tuple[str | None, ...] = (None,)
    """source of the test rows; without it, rows are split off by a hash of their text"""
    text: tuple[str, ...] = (Data.text,)
    """column of the text"""
    pair: tuple[str | None, ...] = (None,)
    """column of the second text, for pairs of texts"""
    label: tuple[str, ...] = (Data.label,)
    """column of the label or target"""
    kind: Annotated[tuple[str | None, ...], KIND] = (None,)
    """kind of task (default: read off the columns: classification, text, completion, chat or answer; regression
    and mlm are named)"""
    loss: tuple[Literal["answers", "all"], ...] = (Data.loss,)
    """the tokens of a conversation, or of a prompt with its completion, that are learned and scored"""
    cut: tuple[Literal["end", "start", "split"], ...] = (Data.cut,)
    """where a conversation, or a prompt with its completion, is cut that is longer than --max-length; split: into
    pieces that are all learned and scored"""
    chat_template: Annotated[tuple[str | None, ...], LOCAL] = (None,)
    """a file with the Jinja chat template for conversations, in place of the tokenizer's"""
    max_new: tuple[int, ...] = (Data.max_new,)
    """the most tokens of an answer that the model writes: of the kind answer, and of those that fft check shows"""
    metric: Annotated[tuple[str | None, ...], tyro.conf.arg(help_behavior_hint="")] = (None,)
    """metric: accuracy, macro_f1, mcc; for regression pearson, spearman, rmse; for text, completion and chat nats,
    perplexity, bits_per_byte, token_accuracy; for answer exact_match, squad_match, number_match (default: the first of
    its kind)"""
    name: Annotated[tuple[str | None, ...], tyro.conf.arg(help_behavior_hint="")] = (None,)
    """name of this task's head in the checkpoint (default: new or original)"""
    train_rows: tuple[int | None, ...] = (None,)
    """maximum number of training rows, sampled with the seed"""

    def each(self, flag: str) -> tuple[Data, ...]:
        """Return the data of every source; `flag` is for messages.

        Raises: InputError for a setting that has neither one value nor one per source.
        """
        count = len(self.source)
        columns = {
            name: for_each(f"{flag}.{name.replace('_', '-')}", values, count, "source", None)
            for name, values in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(Data))
            if name != "source"
        }
        rows = zip(self.source, *columns.values(), strict=True)
        return tuple(Data(source, **dict(zip(columns, values, strict=True))) for source, *values in rows)

    @classmethod
    def of(cls, *tasks: Data) -> "SeveralData":
        """Return the settings that hold these tasks; the inverse of `each`."""
        if not tasks:
            return NO_SOURCES
        return cls(*(tuple(getattr(task, field.name) for task in tasks) for field in dataclasses.fields(Data)))


NO_SOURCES = SeveralData()
