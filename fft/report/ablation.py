"""The table of an ablation: method and settings against scores, mean ± standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fft.report.tables import NONE, Column, markdown_table, rich_table, score, signed
from fft.stats.ablation import Row

if TYPE_CHECKING:
    from rich.table import Table

CAPTION = "mean ± standard deviation over n seeds, on test; settings: those in which runs that have them differ"


def _spread(found: tuple[float, float | None] | None, shown: Callable[[float], str] = score) -> str:
    if found is None:
        return NONE
    mean, deviation = found
    return shown(mean) + ("" if deviation is None else f" ±{deviation:.3f}")


def _kept(row: Row) -> str:
    """The steps kept, of how many: `5 of 8`, `3, 5, 2 of 8`."""
    steps = ", ".join(map(str, dict.fromkeys(row.steps)))
    return f"{', '.join(map(str, row.kept))} of {steps}"


COLUMNS = (
    Column("method", lambda row: row.method, number=False),
    Column("settings", lambda row: row.settings or NONE, number=False),
    Column("n", lambda row: str(row.seeds)),
    Column("original", lambda row: _spread(row.original)),
    Column("forgotten", lambda row: _spread(row.forgotten, signed)),
    Column("new", lambda row: _spread(row.new)),
    Column("kept step", _kept),
)


def ablation_table(rows: Sequence[Row]) -> Table:
    """A line a method and setting."""
    return rich_table(COLUMNS, rows, CAPTION)


def ablation_markdown(rows: Sequence[Row]) -> str:
    """The table of `ablation_table` as Markdown."""
    return f"{markdown_table(COLUMNS, rows)}\n\n{CAPTION}\n"
