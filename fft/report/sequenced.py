"""Reports of `fft sequence` from sequence.json data: tables on the terminal, a picture, one HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fft.core.naming import counted
from fft.disk.files import replace_file, write_json
from fft.report.drawing import save, styled, svg
from fft.report.html import document, flat, notes, pairs, table
from fft.report.tables import NONE, STYLES, Column, rich_table, score, signed
from fft.report.verdict import HEADLINES, OF_SEVERAL

if TYPE_CHECKING:
    import altair
    from rich.console import Console

MEASURES = {
    "average_accuracy": ("average score", score, "mean over all tasks after the last one"),
    "backward_transfer": ("backward transfer", signed, "effect of later tasks on earlier ones; − is forgetting"),
    "forward_transfer": ("forward transfer", signed, "effect of earlier tasks on later ones before these are learned"),
    "forgetting": ("forgetting", signed, "how much worse than the best score that a task once had"),
}
SIDE = 72  # size of a cell in pixels
LIGHT, DARK = "#F4F8FB", "#005A8C"
"""not the colours of drawing.py, which dark mode inverts: cells carry text"""


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write the picture, the page and, last, sequence.json; return their paths.

    Raises: MachineError if they cannot be written.
    """
    picture = svg(matrix_chart(record))
    written = [*save(picture, folder / "matrix"), folder / "sequence.html", folder / "sequence.json"]
    replace_file(written[-2], page(record, picture).encode())
    write_json(written[-1], record)
    return written


# ---------------------------------------------------------------- tables


def matrix_columns(record: dict[str, Any]) -> tuple[Column, ...]:
    """Return a column per task, for rows (model name, scores)."""
    names = [task["name"] for task in record["tasks"]]
    return (
        Column("model", lambda row: row[0], number=False),
        *(Column(name, lambda row, at=at: score(row[1][at])) for at, name in enumerate(names)),
    )


def matrix_rows(record: dict[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Return the rows for `matrix_columns`."""
    return list(zip(record["rows"], record["matrix"], strict=True))


MEASURED = (
    Column("measure", lambda row: MEASURES[row[0]][0], number=False),
    Column("value", lambda row: MEASURES[row[0]][1](row[1]["value"]) if row[1] else NONE),
    Column("95 % interval", lambda row: _interval(*row)),
    Column("what", lambda row: MEASURES[row[0]][2], number=False),
)
STAGES = (
    Column("stage", lambda stage: stage["folder"], number=False),
    Column("method", lambda stage: stage["name"], number=False),
    Column("kept step", lambda stage: str(stage["kept_step"])),
    Column("contract", lambda stage: _met(stage["contract"]), number=False),
    Column("verdict", lambda stage: _outcome(stage), number=False, style=lambda stage: STYLES.get(_outcome(stage), "")),
    Column("lost", lambda stage: _lost(stage), number=False),
    Column("seconds", lambda stage: f"{stage['seconds']:,.0f}"),
)


def measured(record: dict[str, Any]) -> list[tuple[str, dict | None]]:
    """Return the rows for MEASURED."""
    return [(name, record[name]) for name in MEASURES]


def _interval(name: str, estimate: dict[str, Any] | None) -> str:
    if not estimate or estimate["low"] is None:
        return NONE
    write = MEASURES[name][1]
    return f"{write(estimate['low'])} to {write(estimate['high'])}"


def _met(contract: dict[str, Any] | None) -> str:
    return NONE if contract is None else "met" if contract["met"] else "not met"


def _outcome(stage: dict[str, Any]) -> str:
    return stage["verdict"]["outcome"] if stage["verdict"] else NONE


def _lost(stage: dict[str, Any]) -> str:
    return ", ".join(f"{task} {score(drop)}" for task, drop in stage["lost"].items()) or NONE


def caption(record: dict[str, Any]) -> str:
    """Return the metric, source and number of test examples of each task."""
    return "; ".join(
        f"{t['name']}: {t['metric']} of {t['source']} on {counted(t['n'], 'test example')}" for t in record["tasks"]
    )


def show(record: dict[str, Any], console: Console) -> None:
    """Print the stages, the matrix, the measures and the notes."""
    console.print(rich_table(STAGES, record["stages"]))
    console.print(rich_table(matrix_columns(record), matrix_rows(record), caption(record)))
    console.print(rich_table(MEASURED, measured(record)))
    for note in record["notes"]:
        console.out(f"note: {note}", highlight=False)


# ---------------------------------------------------------------- the picture and the page


def matrix_chart(record: dict[str, Any]) -> altair.LayerChart | altair.FacetChart:
    """Return the matrix as a heat map: a row per model, a column per task, with the scores as text."""
    import altair as alt

    names = [task["name"] for task in record["tasks"]]
    cells = [
        {"model": row, "task": name, "score": value, "text": score(value)}
        for row, values in matrix_rows(record)
        for name, value in zip(names, values, strict=True)
        if value is not None
    ]
    values = [cell["score"] for cell in cells] or [0.0]
    middle = (min(values) + max(values)) / 2
    x = alt.X("task:N", sort=names, title="scored on the test rows of", scale=alt.Scale(domain=names))
    y = alt.Y("model:N", sort=record["rows"], title=None, scale=alt.Scale(domain=record["rows"]))
    grid = alt.Axis(orient="top", labelAngle=0, grid=False)
    chart = alt.Chart(alt.Data(values=cells)).encode(x=x.axis(grid), y=y.axis(alt.Axis(grid=False)))
    shade = alt.Color("score:Q", legend=None, scale=alt.Scale(range=[LIGHT, DARK], interpolate="rgb"))
    letters = alt.condition(alt.datum.score > middle, alt.value("#FFFFFF"), alt.value("#111111"))
    layers = alt.layer(
        chart.mark_rect(stroke="#767676", strokeWidth=0.5).encode(color=shade),
        chart.mark_text().encode(text="text:N", color=letters),
    )
    return styled(layers.properties(width=alt.Step(1.6 * SIDE), height=alt.Step(SIDE / 2)))


def page(record: dict[str, Any], picture: str) -> str:
    """Return the page of a sequence as HTML; `picture` is the SVG text of its matrix."""
    outcome = record["outcome"]
    headline = OF_SEVERAL.get(outcome, HEADLINES[outcome])
    note = "The worst verdict of the stages; each stage is compared with the model of the previous one."
    box = f'<div class="verdict {outcome}"><h2>{escape(headline)}</h2><p>{note}</p></div>'
    figure = f"<figure>{picture}<figcaption>{escape(caption(record))}.</figcaption></figure>"
    sections = (
        box,
        f"<h2>Scores</h2>\n{figure}\n{table(matrix_columns(record), matrix_rows(record))}",
        f"<h2>Transfer</h2>\n{table(MEASURED, measured(record))}",
        f"<h2>Stages</h2>\n{table(STAGES, record['stages'])}",
        notes(record["notes"]),
        f"<h2>Settings</h2>\n{pairs([*flat(record['plan']), *record['versions'].items()])}",
    )
    return document(f"{record['name']}: a sequence of {counted(len(record['tasks']), 'task')}", sections)
