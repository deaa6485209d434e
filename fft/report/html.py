"""The parts of HTML pages: document, tables, lists of settings. Every text is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from fft.report.style import STYLE
from fft.report.tables import Column, cells

CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
SHOWN = {code: "\N{REPLACEMENT CHARACTER}" for code in CONTROLS if chr(code) not in "\n\r\t"}
"""replacements of control characters, including those that reverse the text direction"""


def document(title: str, sections: Iterable[str]) -> str:
    """Return a self-contained page; `title` is text, `sections` are HTML, and empty ones are left out.

    Control characters are replaced, so that the page is safe to print on a terminal.
    """
    body = "\n".join(f"<section>\n{text}\n</section>" for text in sections if text)
    name = escape(title)
    whole = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
<h1>{name}</h1>
{body}
</main>
</body>
</html>
"""
    return whole.translate(SHOWN)


def table(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """Return an HTML table that scrolls sideways on narrow screens."""
    kinds = [' class="number"' if column.number else "" for column in columns]
    head = "".join(f"<th{kind}>{escape(column.header)}</th>" for kind, column in zip(kinds, columns, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, line, strict=True)) + "</tr>"
        for line in cells(columns, rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def paragraph(text: str) -> str:
    """Return the text as a paragraph of one sentence; empty if there is none."""
    return f"<p>{escape(text[:1].upper() + text[1:])}.</p>" if text else ""


def pairs(named: Iterable[tuple[str, Any]]) -> str:
    """Return names and values as a description list."""
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>" for name, value in named)
    return f"<dl>{items}</dl>"


def _plain(value: Any) -> str:
    """Return a JSON value as text: a float with six significant digits, null as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings as (dotted name, value)."""
    for name, value in data.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def notes(texts: Sequence[Any]) -> str:
    """Return notes and warnings as a section; empty if there are none."""
    items = "".join(f"<li>{escape(str(item))}</li>" for item in texts)
    return f"<h2>Notes and warnings</h2>\n<ul>{items}</ul>" if texts else ""
