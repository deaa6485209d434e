"""One HTML file about one run: the verdict, the figures behind it, the course of the run, and how to repeat it.

Self-contained: no script, no font, no picture from elsewhere. Every text of the run is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fft.record import replace_file
from fft.report.history import history_svg
from fft.report.style import STYLE
from fft.report.tables import BEFORE_AFTER, PARAMETERS, Column, caption, cells, groups, percent, score, signed

HEADLINES = {
    "pass": "Kept: the original task is within the accepted drop",
    "fail": "Lost: the original task dropped by more than is accepted",
    "undecided": "Undecided: these test examples do not settle it",
    None: "No original task was given: nothing is known about what was forgotten",
}


def write_page(run: dict[str, Any], path: str | Path) -> None:
    """Write the page of a run (run.json data) to path, whole or not at all; MachineError where it cannot be written."""
    replace_file(path, page(run).encode())


def page(run: dict[str, Any]) -> str:
    """The page of a run as HTML text."""
    sections = "\n".join(f"<section>\n{text}\n</section>" for text in (section(run) for section in SECTIONS) if text)
    name = escape(run["name"])
    return f"""<!doctype html>
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
{sections}
</main>
</body>
</html>
"""


def sentence(run: dict[str, Any]) -> str:
    """The verdict in words: the two scores, the drop with its interval, the tolerance, what would decide.

    The same sentence serves the page and the last line of a command. Empty where there is no original task.
    """
    verdict, change = run["verdict"], run["original"]
    if not verdict or not change:
        return ""
    said = f"original {change['metric']} {score(change['before'])} → {score(change['after'])}"
    said += f" on {change['n']:,} test examples"
    if verdict["drop"] is not None:
        said += f", a drop of {signed(verdict['drop'])}"
    if verdict["drop_low"] is not None and verdict["drop_high"] is not None:
        said += f" (95 % interval {signed(verdict['drop_low'])} to {signed(verdict['drop_high'])})"
    said += f"; accepted is {verdict['tolerance']:g}"
    if verdict["needed"] is not None:
        said += f"; about {verdict['needed']:,} test examples would decide"
    return said


# ---------------------------------------------------------------- sections


def _verdict(run: dict[str, Any]) -> str:
    outcome = run["verdict"]["outcome"] if run["verdict"] else None
    said = sentence(run)
    detail = f"<p>{escape(said[:1].upper() + said[1:])}.</p>" if said else ""
    return f'<div class="verdict {outcome or "none"}"><h2>{HEADLINES[outcome]}</h2>{detail}</div>'


def _scores(run: dict[str, Any]) -> str:
    said = f"<p class='note'>{escape(caption([run]))}</p>{_tests(run)}"
    return f"<h2>Before and after</h2>\n{_table(BEFORE_AFTER, [run])}\n{said}"


def _tests(run: dict[str, Any]) -> str:
    """McNemar's p of both tasks, where there is one."""
    said = [
        f"{task}: p = {run[task]['mcnemar_p']:.2g}"
        for task in ("original", "new")
        if run[task] and run[task]["mcnemar_p"] is not None
    ]
    return f"<p class='note'>McNemar's exact test of a change — {escape('; '.join(said))}</p>" if said else ""


def _history(run: dict[str, Any]) -> str:
    if len(run["history"]) < 2:
        return ""
    crossed = "the original's drop on the probe never exceeded what is accepted"
    if run["crossover"] is not None:
        crossed = f"from step {run['crossover']} on the original's drop on the probe exceeds what is accepted"
    ended = {"patience": ", stopped for lack of progress", "non-finite": ", stopped by steps that were not finite"}
    course = f"{run['steps']:,} steps{ended.get(run['stopped'], '')}; kept is step {run['kept_step']}"
    said = f"{course}; {crossed}" if run["original"] else course
    return f"<h2>Course</h2>\n<figure>{history_svg(run)}<figcaption>{escape(said)}.</figcaption></figure>"


def _parameters(run: dict[str, Any]) -> str:
    counts = run["parameters"]
    said = f"{counts['trained']:,} of {counts['total']:,} trained: {percent(counts['percent'])}"
    return f"<h2>Parameters</h2>\n<p>{escape(said)}.</p>\n{_table(PARAMETERS, groups(counts['table']))}"


def _trouble(run: dict[str, Any]) -> str:
    """Notes of the run and warnings about its data."""
    said = list(run["notes"])
    if run["skipped_steps"]:
        said.append(f"{run['skipped_steps']} steps were skipped because they were not finite")
    said += [
        f"{task}: {warning}" for task in ("original", "new") if run[task] for warning in run["data"][task]["warnings"]
    ]
    items = "".join(f"<li>{escape(str(item))}</li>" for item in said)
    return f"<h2>Notes and warnings</h2>\n<ul>{items}</ul>" if said else ""


def _data(run: dict[str, Any]) -> str:
    columns = (
        Column("task", lambda row: row[0], number=False),
        Column("source", lambda row: str(row[1]), number=False),
        Column("split", lambda row: row[2], number=False),
        Column("rows", lambda row: f"{row[3]['rows']:,}"),
        Column("sha256", lambda row: row[3]["sha256"][:12], number=False),
    )
    rows = [
        (task, run["data"][task]["source"], name, split)
        for task in ("original", "new")
        if run[task]
        for name, split in run["data"][task]["splits"].items()
    ]
    return f"<h2>Data</h2>\n{_table(columns, rows)}"


def _settings(run: dict[str, Any]) -> str:
    return f"<h2>Settings</h2>\n{_pairs(_flat(run['experiment']))}"


def _repeat(run: dict[str, Any]) -> str:
    git = run["git"]
    said = [("experiment hash", run["experiment_hash"])]
    if git["commit"]:
        said.append(("git commit", f"{git['commit']}{', with changes that are not committed' if git['dirty'] else ''}"))
    said += [*_flat({"device": run["device"]}), *_flat({"seconds": run["seconds"]}), *run["versions"].items()]
    return (
        "<h2>To repeat</h2>\n<p>Where the run was started, so that paths in its settings still hold, with RUN this "
        f"folder:</p>\n<pre>fft tune --config RUN/experiment.json --out again</pre>\n{_pairs(said)}"
    )


SECTIONS: tuple[Callable[[dict[str, Any]], str], ...] = (
    _verdict,
    _scores,
    _history,
    _trouble,
    _parameters,
    _data,
    _settings,
    _repeat,
)


# ---------------------------------------------------------------- pieces


def _table(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """The columns as an HTML table that scrolls sideways where the screen is narrow."""
    kinds = [' class="number"' if column.number else "" for column in columns]
    head = "".join(f"<th{kind}>{escape(column.header)}</th>" for kind, column in zip(kinds, columns, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, line, strict=True)) + "</tr>"
        for line in cells(columns, rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _pairs(pairs: Sequence[tuple[str, Any]]) -> str:
    """Names and values as a description list."""
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>" for name, value in pairs)
    return f"<dl>{items}</dl>"


def _plain(value: Any) -> str:
    """A JSON value in words: a float with what digits count, a missing one as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value)."""
    for name, value in data.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
