"""Tables of runs; the columns are defined once, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fft.core.naming import ORIGINAL, counted
from fft.report.words import loss_word
from fft.stats.ablation import gained_little
from fft.stats.retention import starts_fresh

if TYPE_CHECKING:
    from rich.table import Table

NONE = "–"
STYLES = {"pass": "green", "fail": "red", "undecided": "yellow"}


class Column(NamedTuple):
    """A column: header, cell text of a row, whether it is a number (right-aligned), and colour."""

    header: str
    cell: Callable[[Any], str]
    number: bool = True
    style: Callable[[Any], str] | None = None


# ---------------------------------------------------------------- numbers as text


def score(value: float | None) -> str:
    """Return a score with three decimals; a dash for None."""
    return NONE if value is None else f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Return a change of a score with its sign: +0.063, −0.004, 0.000."""
    if value is None:
        return NONE
    text = f"{value:+.3f}"
    return "0.000" if text[1:] == "0.000" else text.replace("-", "−")


def scores(change: dict[str, Any]) -> str:
    """Return the scores before and after; a dash if the score is undefined on these rows."""
    return NONE if change.get("undefined") else f"{score(change['before'])} → {score(change['after'])}"


def percent(value: float) -> str:
    """Return a percentage with three significant digits: 100 %, 21.8 %, 0.27 %."""
    return f"{value:.3g} %"


def half_width(change: dict[str, Any]) -> str:
    """Return ± half the 95 % interval of a change."""
    if change["low"] is None or change["high"] is None:
        return "± ?"
    return f"±{(change['high'] - change['low']) / 2:.3f}"


# ---------------------------------------------------------------- before and after


def _path(task: str) -> Callable[[dict], str]:
    """Return the cell function `before → after` of a task; with a new head, `after` and its interval."""

    def cell(run: dict[str, Any]) -> str:
        change = run[task]
        if not change or change.get("undefined"):
            return NONE
        if task == "new" and starts_fresh(run):
            alone = run.get("scores", {}).get(task)  # records of older versions have no interval
            return f"{score(change['after'])} {half_width(alone)}" if alone else score(change["after"])
        return scores(change)

    return cell


def _change(task: str, sign: int) -> Callable[[dict], str]:
    """Return the cell function of a task's change with its interval, times `sign`: -1 shows losses as positive."""

    def cell(run: dict[str, Any]) -> str:
        change = run[task]
        if not change or change["change"] is None or (task == "new" and starts_fresh(run)):
            return NONE
        return f"{signed(sign * change['change'])} {half_width(change)}"

    return cell


def outcome(run: dict[str, Any]) -> str:
    """Return the outcome of a run's verdict, and whether the model is its base; a dash without an original task."""
    kept = " (base kept)" if run["kept_step"] == 0 else ""
    return run["verdict"]["outcome"] + kept if run["verdict"] else NONE + kept


BEFORE_AFTER = (
    Column("run", lambda run: run["name"], number=False),
    Column("original", _path("original")),
    Column("drop", _change("original", -1)),
    Column("new", _path("new")),
    Column("gain", _change("new", +1)),
    Column("trained", lambda run: percent(run["parameters"]["percent"])),
    Column("kept step", lambda run: f"{run['kept_step']} of {run['steps']}"),
    Column("s", lambda run: f"{run['seconds']['total']:,.0f}"),
    Column("verdict", outcome, number=False, style=lambda run: STYLES.get(outcome(run).split()[0], "")),
)


def verdicts(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the verdict on each original task, also for older records, which have a single one."""
    return run.get("verdicts", {ORIGINAL: run["verdict"]} if run["verdict"] else {})


def by_original(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `before_after`: a run with several original tasks has one row for each."""
    rows = []
    for run in runs:
        by_name = verdicts(run)
        if len(by_name) < 2:
            rows.append(run)
        for name, verdict in by_name.items() if len(by_name) > 1 else ():
            rows.append(run | {"name": f"{run['name']}: {name}", ORIGINAL: run[name], "verdict": verdict})
    return rows


def before_after(runs: Sequence[dict[str, Any]]) -> Table:
    """Return a table of run.json data with a row per run and original task.

    Columns: both tasks before and after, drop (or rise) and gain with half the 95 % interval, share of parameters
    trained, selected step, seconds, verdict.
    """
    return rich_table(worded(BEFORE_AFTER, _originals(runs)), by_original(runs), caption(runs))


def markdown(runs: Sequence[dict[str, Any]]) -> str:
    """Return the table of `before_after` as Markdown, with its caption below."""
    columns = worded(BEFORE_AFTER, _originals(runs))
    return f"{markdown_table(columns, by_original(runs))}\n\n{caption(runs)}\n"


def worded(columns: Sequence[Column], metrics: Iterable[str]) -> tuple[Column, ...]:
    """Return the columns with the `loss_word` of the original tasks' `metrics` in place of `drop` in their headers."""
    word = loss_word(metrics)
    return tuple(column._replace(header=word) if column.header == "drop" else column for column in columns)


def _originals(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the metrics of the runs' original tasks."""
    return [run[ORIGINAL]["metric"] for run in by_original(runs) if run[ORIGINAL]]


def caption(runs: Sequence[dict[str, Any]]) -> str:
    """Return the caption of `before_after` for these runs: metrics, numbers of examples, tolerance, as in its rows."""
    parts, runs = [], by_original(runs)
    for task in ("original", "new"):
        metrics = dict.fromkeys(
            f"{run[task]['metric']} on {counted(run[task]['n'], 'test example')}" for run in runs if run[task]
        )
        if metrics:
            parts.append(f"{task}: {' or '.join(metrics)}")
    parts += ["±: half the paired 95 % interval", "s: seconds"]
    if any(starts_fresh(run) for run in runs):
        parts.append("a fresh head has no new score before: nothing is gained over it, and ± is of the score itself")
    if len({(run["kept_step"], run["steps"]) for run in runs}) > 1:
        parts.append("runs that keep different steps compare stopping points too: --keep latest compares last steps")
    if little := gained_little(runs):
        parts.append(f"gained less than half of what full did: {', '.join(little)}")
    if tolerances := dict.fromkeys(f"{run['verdict']['tolerance']:.3g}" for run in runs if run["verdict"]):
        parts.append(f"accepted {loss_word(_originals(runs))}: {' or '.join(tolerances)}")
    return "; ".join(parts)


# ---------------------------------------------------------------- one definition, two spellings


def cells(columns: Sequence[Column], rows: Sequence[Any]) -> list[list[str]]:
    """Return the text of every cell, row by row."""
    return [[column.cell(row) for column in columns] for row in rows]


def rich_table(columns: Sequence[Column], rows: Sequence[Any], caption: str = "") -> Table:
    """Return a rich table of Text cells, so that a name with [brackets] is not read as markup.

    On a narrow terminal, cells break at spaces, never within a number.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.caption_justify, table.caption = "left", Text(caption, "dim") if caption else None
    texts = [
        [text if column.number else _broken(text) for column, text in zip(columns, line, strict=True)]
        for line in cells(columns, rows)
    ]
    for at, column in enumerate(columns):
        words = [word for text in (column.header, *(line[at] for line in texts)) for word in text.split()]
        least = max(map(len, words)) if at else 9
        whole = not any(" " in line[at] for line in texts)  # only cells with spaces may wrap on a narrow terminal
        justify = "right" if column.number else "left"
        table.add_column(Text(column.header), justify=justify, min_width=least, no_wrap=whole, overflow="fold")
    for row, line in zip(rows, texts, strict=True):
        styles = [column.style(row) if column.style else "" for column in columns]
        table.add_row(*map(Text, line, styles))
    return table


def _broken(name: str) -> str:
    """Break a long chain of methods into one line each, to save width on 80 columns."""
    return name.replace("+", "+\n") if len(name) > 12 else name


def markdown_table(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """Return a Markdown table; a | in a cell is escaped, a line break becomes a space."""
    lines = [[column.header for column in columns], ["---:" if column.number else "---" for column in columns]]
    lines += [[" ".join(text.replace("|", "\\|").split()) for text in line] for line in cells(columns, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
