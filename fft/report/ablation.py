"""The table of an ablation: scores by method and settings, mean ± standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fft.report.tables import NONE, Column, markdown_table, rich_table, score, signed
from fft.stats.ablation import Row

if TYPE_CHECKING:
    from rich.table import Table

CAPTION = "mean ± standard deviation over n seeds, on test; settings: only those that differ between runs"


def _spread(spread: tuple[float, float | None] | None, write: Callable[[float], str] = score) -> str:
    if spread is None:
        return NONE
    mean, deviation = spread
    return write(mean) + ("" if deviation is None else f" ±{deviation:.3f}")


def _steps(row: Row) -> str:
    """Return the selected step of each seed, of how many: `5 of 8`, `3, 5, 2 of 8`."""
    steps = ", ".join(map(str, dict.fromkeys(row.steps)))
    return f"{', '.join(map(str, row.kept))} of {steps}"


COLUMNS = (
    Column("method", lambda row: row.method, number=False),
    Column("settings", lambda row: row.settings or NONE, number=False),
    Column("n", lambda row: str(row.seeds)),
    Column("original", lambda row: _spread(row.original)),
    Column("forgotten", lambda row: _spread(row.forgotten, signed)),
    Column("new", lambda row: _spread(row.new)),
    Column("kept step", _steps),
)


def ablation_table(rows: Sequence[Row]) -> Table:
    """Return the table with one row per method and settings."""
    return rich_table(COLUMNS, rows, CAPTION)


def ablation_markdown(rows: Sequence[Row]) -> str:
    """Return the table of `ablation_table` as Markdown."""
    return f"{markdown_table(COLUMNS, rows)}\n\n{CAPTION}\n"
