"""Data flags for several tasks at once, and for one whose source stands without its flag."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fft.core.settings import for_each
from fft.experiment import Data


@dataclass(frozen=True)
class UnnamedData(Data):
    """One task's data: where it is and which columns hold what."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC", help_behavior_hint="")]


@dataclass(frozen=True)
class SeveralData(Data):
    """One source or several; each setting is one for all of them, or one a source."""

    # The fields are those of Data, with their texts in the help, in the plural.
    source: Annotated[tuple[str, ...], tyro.conf.arg(name="", metavar="SRC [SRC ...]", help_behavior_hint="")] = ()
    validation: tuple[str | None, ...] = (None,)
    test: tuple[str | None, ...] = (None,)
    text: tuple[str, ...] = (Data.text,)
    pair: tuple[str | None, ...] = (None,)
    label: tuple[str, ...] = (Data.label,)
    kind: tuple[Literal["classification", "regression"], ...] = (Data.kind,)
    metric: Annotated[tuple[str | None, ...], tyro.conf.arg(help_behavior_hint="")] = (None,)
    name: Annotated[tuple[str | None, ...], tyro.conf.arg(help_behavior_hint="")] = (None,)
    train_rows: tuple[int | None, ...] = (None,)

    def __post_init__(self):
        """What Data checks is checked source by source."""

    def each(self, flag: str) -> tuple[Data, ...]:
        """The data of every source; `flag` names them in errors.

        Errors: InputError for a setting that has neither one value nor one a source.
        """
        count = len(self.source)
        columns = {
            name: for_each(f"{flag}.{name.replace('_', '-')}", values, count, "sources")
            for name, values in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(Data))
            if name != "source"
        }
        rows = zip(self.source, *columns.values(), strict=True)
        return tuple(Data(source, **dict(zip(columns, values, strict=True))) for source, *values in rows)


NO_SOURCES = SeveralData()


def several(given: Sequence[Data]) -> SeveralData:
    """The flags that stand for some data."""
    if not given:
        return NO_SOURCES
    return SeveralData(*(tuple(getattr(data, f.name) for data in given) for f in dataclasses.fields(Data)))
