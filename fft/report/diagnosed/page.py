"""Shows a diagnosis on the terminal and as one HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fft.core.naming import counted
from fft.disk.files import replace_file
from fft.report.diagnosed.chart import chart
from fft.report.diagnosed.layers import PARTS, STEPS, caption, rows
from fft.report.diagnosed.words import (
    flags,
    head_sentence,
    headline,
    layer_sentence,
    lost_sentence,
    prediction_sentence,
    proposal_sentence,
    sentences,
)
from fft.report.drawing import save, svg
from fft.report.html import document, flat, notes, pairs, paragraph, table
from fft.report.tables import rich_table

if TYPE_CHECKING:
    from rich.console import Console


def show(record: dict[str, Any], console: Console) -> None:
    """Print the notes, the table of layers, the conclusions, and the proposed flags."""
    for note in record["notes"]:
        console.out(f"note: {note}", highlight=False)
    console.print(rich_table(PARTS, rows(record), caption(record)))
    console.out(headline(record)[1], highlight=False)
    for text in sentences(record):
        console.out(f"- {text}", highlight=False)
    if flags(record):
        console.out(f"proposed for the next fft tune, not a measured result: {flags(record)}", highlight=False)


def page(record: dict[str, Any], picture: str) -> str:
    """Return the self-contained page of a diagnosis as HTML; `picture` is the SVG text of its chart."""
    results = (_verdict(record), _layers(record, picture), _proposed(record))
    return document("fft diagnose", (*results, notes(record["notes"]), _settings(record)))


def _verdict(record: dict[str, Any]) -> str:
    kind, title = headline(record)
    texts = [sentence(record) for sentence in (lost_sentence, head_sentence)]
    text = "".join(paragraph(text) for text in texts if text)
    return f'<div class="verdict {kind}"><h2>{escape(title)}</h2>{text}</div>'


def _layers(record: dict[str, Any], picture: str) -> str:
    text = f"{paragraph(layer_sentence(record))}{paragraph(prediction_sentence(record))}"
    legend = "Bars: paired 95 % intervals. A role is the same part of all blocks together."
    drawn = f"<figure>{picture}<figcaption>{legend}</figcaption></figure>"
    note = f"<p class='note'>{escape(caption(record))}</p>"
    return f"<h2>Layers</h2>\n{text}{drawn}{table(PARTS, rows(record))}\n{note}"


def _proposed(record: dict[str, Any]) -> str:
    if record["proposal"] is None:
        return ""
    fragment = f"<pre>{escape(flags(record))}</pre>" if flags(record) else ""
    on = counted(record["rows"]["validation"], "validation row")
    rows = f"<p class='note'>In the order of the greedy search, on {on}.</p>"
    steps = table(STEPS, record["proposal"]["steps"])
    return f"<h2>A proposal</h2>\n{fragment}{paragraph(proposal_sentence(record))}{steps}\n{rows}"


def _settings(record: dict[str, Any]) -> str:
    names = ("base", "tuned", "heads", "data", "rows", "fisher", "refit", "seed", "device", "seconds", "versions")
    return f"<h2>Settings</h2>\n{pairs(list(flat({name: record[name] for name in names})))}"


def write(record: dict[str, Any], out: Path) -> None:
    """Write layers.svg, layers.png and report.html into `out`. Raises: MachineError if they cannot be written."""
    picture = svg(chart(record))
    save(picture, out / "layers")
    replace_file(out / "report.html", page(record, picture).encode())
