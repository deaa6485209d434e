"""What our pages are made of: the document around the sections, tables, lists of settings; every text is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from fft.report.style import STYLE
from fft.report.tables import Column, cells

CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
SHOWN = {code: "\N{REPLACEMENT CHARACTER}" for code in CONTROLS if chr(code) not in "\n\r\t"}
"""what steers a terminal, or turns the letters after it round, and what stands in its place"""


def document(title: str, sections: Iterable[str]) -> str:
    """A whole page: `title` is text, the sections are HTML, empty ones are left out. It loads nothing, and no character
    of a text steers the terminal that prints it.
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
    """The columns as an HTML table that scrolls sideways where the screen is narrow."""
    kinds = [' class="number"' if column.number else "" for column in columns]
    head = "".join(f"<th{kind}>{escape(column.header)}</th>" for kind, column in zip(kinds, columns, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, line, strict=True)) + "</tr>"
        for line in cells(columns, rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def paragraph(text: str) -> str:
    """Words as a sentence in a paragraph; empty where there are none."""
    return f"<p>{escape(text[:1].upper() + text[1:])}.</p>" if text else ""


def pairs(named: Iterable[tuple[str, Any]]) -> str:
    """Names and values as a description list."""
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>" for name, value in named)
    return f"<dl>{items}</dl>"


def _plain(value: Any) -> str:
    """A JSON value in words: a float with what digits count, a missing one as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    for name, value in data.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def notes(said: Sequence[Any]) -> str:
    """Notes and warnings as a section; empty where there are none."""
    items = "".join(f"<li>{escape(str(item))}</li>" for item in said)
    return f"<h2>Notes and warnings</h2>\n<ul>{items}</ul>" if said else ""
