"""Tables of parameters, in which equal ones share a row, for the terminal and for Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fft.report.tables import NONE, Column, markdown_table, percent, rich_table

if TYPE_CHECKING:
    from rich.table import Table

LAYER = re.compile(r"layers/(\d+)/")
MOST_ROWS = 40  # a table with more rows than this is collapsed further


class Group(NamedTuple):
    """Parameters in one row of the table: path pattern, shape (None if they differ), number of tensors and of
    parameters, whether they are trained, and their learning-rate multiplier."""

    pattern: str
    shape: tuple[int, ...] | None
    tensors: int
    parameters: int
    trained: bool
    multiplier: float


PARAMETERS = (
    Column("path", lambda group: group.pattern, number=False),
    Column("shape", lambda group: NONE if group.shape is None else " × ".join(map(str, group.shape)) or "scalar"),
    Column("tensors", lambda group: str(group.tensors)),
    Column("parameters", lambda group: f"{group.parameters:,}"),
    Column("trained", lambda group: "trained" if group.trained else "frozen", number=False),
    Column("rate", lambda group: f"× {group.multiplier:.3g}" if group.trained else NONE),
)


def parameter_table(table: Sequence[dict[str, Any]]) -> Table:
    """Return a short table of the rows {path, shape, trained, multiplier} of run.json, grouping equal rows.

    Equal layers share a row: layers/{0..5}/attention/query/kernel. If that leaves more than 40 rows, subtrees with one
    multiplier share a row: layers/3/*. The caption has the number and percentage of trained parameters.
    """
    rows = groups(table)
    total, trained = (sum(g.parameters for g in rows if g.trained or frozen_too) for frozen_too in (True, False))
    caption = f"{trained:,} of {total:,} parameters trained: {percent(100 * trained / total)}"
    return rich_table(PARAMETERS, rows, caption)


def parameter_markdown(table: Sequence[dict[str, Any]]) -> str:
    """Return the table of `parameter_table` as Markdown."""
    return markdown_table(PARAMETERS, groups(table)) + "\n"


def groups(table: Sequence[dict[str, Any]]) -> list[Group]:
    """Group equal rows {path, shape, trained, multiplier}, in the order of the rows."""
    leaves = [
        Group(r["path"], tuple(r["shape"]), 1, math.prod(r["shape"]), r["trained"], r["multiplier"]) for r in table
    ]
    across = _across_layers(leaves)
    return across if len(across) <= MOST_ROWS else _across_layers(_subtrees("", leaves))


def _subtrees(prefix: str, leaves: list[Group]) -> list[Group]:
    """Return the leaves below prefix as one group `prefix*` if all are equal, else the groups of their subtrees."""
    if len(leaves) == 1:
        return leaves
    if len({(leaf.trained, leaf.multiplier) for leaf in leaves}) == 1:
        first = leaves[0]
        count = sum(leaf.parameters for leaf in leaves)
        return [Group(f"{prefix}*", None, len(leaves), count, first.trained, first.multiplier)]
    below: dict[str, list[Group]] = {}
    for leaf in leaves:
        name, slash, _ = leaf.pattern.removeprefix(prefix).partition("/")
        below.setdefault(f"{prefix}{name}{slash}", []).append(leaf)
    return [group for name, inside in below.items() for group in _subtrees(name, inside)]


def _across_layers(leaves: list[Group]) -> list[Group]:
    """Merge groups that differ only in the number of their layer."""
    alike: dict[tuple, list[Group]] = {}
    for group in leaves:
        pattern = LAYER.sub("layers/{}/", group.pattern)
        alike.setdefault((pattern, group.shape, group.trained, group.multiplier), []).append(group)
    merged = []
    for (pattern, shape, trained, multiplier), same in alike.items():
        numbers = [int(match[1]) for group in same if (match := LAYER.match(group.pattern))]
        name = pattern.replace("{}", _ranges(numbers)) if numbers else pattern
        tensors, parameters = sum(g.tensors for g in same), sum(g.parameters for g in same)
        merged.append(Group(name, shape, tensors, parameters, trained, multiplier))
    return merged


def _ranges(numbers: Sequence[int]) -> str:
    """Abbreviate layer numbers: [0, 1, 2, 5] -> {0..2,5}; a single number has no braces."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"
