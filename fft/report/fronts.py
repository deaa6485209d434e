"""Pareto fronts of methods: a table at equal new score, and pictures over strengths and over training steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fft.report.drawing import COLOURS, FAINT, INK, domain, save, styled, svg
from fft.report.front import axis_title, looks
from fft.report.labels import Box, place
from fft.report.tables import Column, markdown_table, rich_table
from fft.stats.fronts import Front
from fft.stats.intervals import Estimate
from fft.stats.metrics import METRICS
from fft.stats.retention import is_scored, starts_fresh

if TYPE_CHECKING:
    from rich.table import Table

WIDTH, HEIGHT = 560, 380
TOLD_APART = len(COLOURS)  # with more lines than this, each method gets its own panel
LETTER, LINE, MARK = (
    6,
    13,
    6,
)  # approximate width of a letter and height of a line at 11 pixels; half the width of a point
PANEL, ACROSS = 175, 4  # width of a small panel in pixels, and panels per row


def fronts_table(found: Sequence[Front], matched: float) -> Table:
    """Return a table with a row per method: settings, seeds, hypervolume, and original score at new score `matched`."""
    return rich_table(_columns(matched), found, _caption())


def fronts_markdown(found: Sequence[Front], matched: float) -> str:
    """Return the table of `fronts_table` as Markdown."""
    return f"{markdown_table(_columns(matched), found)}\n\n{_caption()}\n"


def draw_fronts(found: Sequence[Front], matched: float, runs: Sequence[dict[str, Any]], stem: Path) -> list[Path]:
    """Draw original score (y) against new score (x) on test, with a line per method through its settings."""
    watched = _watched(runs)[0]
    signs = {task: METRICS[watched[task]["metric"]].sign for task in ("new", "original")}
    rows = [
        {
            "name": front.method,
            "order": order,
            "new": signs["new"] * new,
            "original": signs["original"] * original,
            "label": label,
        }
        for front in found
        for order, ((new, original), label) in enumerate(zip(front.points, front.labels, strict=True))
    ]
    base = {task: watched[task]["before"] for task in ("new", "original")}
    base |= {"new": None} if starts_fresh(watched) else {}
    titles = {task: axis_title(watched, task) for task in ("new", "original")}
    lines = [f"lines: a method over its strengths, means over seeds; dotted: new score {matched:.3f}", _of_base(base)]
    return save(svg(_chart(rows, base, signs["new"] * matched, titles, lines)), stem)


def draw_steps(runs: Sequence[dict[str, Any]], stem: Path) -> list[Path]:
    """Draw the two scores on the probe, with a line per run through its training steps; return [] if no run has any."""
    rows = [
        {"name": run["name"], "order": order, "new": entry["new"], "original": entry["original"], "last": last}
        for run in _watched(runs)
        if len(run["history"]) > 2
        for order, entry, last in _course(run)
    ]
    if not rows:
        return []
    watched = _watched(runs)[0]
    titles = {task: f"{task} task: {watched[task]['metric']} on the probe" for task in ("new", "original")}
    base = {task: watched["history"][0][task] for task in ("new", "original")}
    base |= {"new": None} if starts_fresh(watched) else {}
    lines = [f"lines: a run over its training steps, a ring at the last; {_of_base(base)}"]
    return save(svg(_chart(rows, base, None, titles, lines)), stem)


def _of_base(base: dict[str, float | None]) -> str:
    """Return the legend entry of the base."""
    return "cross: the base" if base["new"] is not None else "dashed: the base, whose new head knew nothing yet"


def _course(run):
    """Return (number, entry, whether it is the last) of the evaluations with both scores."""
    scored = [entry for entry in run["history"] if entry["new"] is not None and entry["original"] is not None]
    return [(order, entry, order == len(scored) - 1) for order, entry in enumerate(scored)]


def _watched(runs):
    """Return the runs with scores of both tasks; the pictures show only these."""
    return [run for run in runs if is_scored(run["original"]) and is_scored(run["new"])]


def _chart(rows, base, matched, titles, subtitle):
    """Return one panel with a colour per name, or a small panel per name if there are too many."""
    import altair as alt

    names = list(dict.fromkeys(row["name"] for row in rows))

    spans = {task: _span(rows, base, matched, task, titles[task]) for task in ("new", "original")}

    def axis(channel, task, **more):
        scale = alt.Scale(domain=sorted(spans[task]), nice=False, reverse=_lower_is_better(titles[task]))
        return channel(f"{task}:Q", scale=scale, **more)

    x, y = axis(alt.X, "new", title=titles["new"]), axis(alt.Y, "original", title=titles["original"])
    title = alt.Title(subtitle, anchor="start", offset=12)
    if len(names) <= TOLD_APART:
        pairs = [looks(number) for number in range(len(names))]
        scales = (alt.Scale(domain=names, range=list(look)) for look in zip(*pairs, strict=True))
        colour, shape = (
            channel("name:N", title=None, scale=scale)
            for channel, scale in zip((alt.Color, alt.Shape), scales, strict=True)
        )
        layers = [*_ground(base, matched, x, y), *_lines(rows, x, y, color=colour, shape=shape), _start(base, x, y)]
        layers.append(_labels(rows, spans, (WIDTH, HEIGHT), x, y, colour))
        return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))
    few = {"title": None, "axis": alt.Axis(tickCount=4)}
    x, y = axis(alt.X, "new", **few), axis(alt.Y, "original", **few)
    panels = []
    for name in names:
        mine, others = ([row for row in rows if (row["name"] == name) == own] for own in (True, False))
        behind = alt.Chart(alt.Data(values=others)).mark_point(size=12, filled=True, color=FAINT, opacity=0.35)
        layers = [*_ground(base, matched, x, y), behind.encode(x=x, y=y)]
        layers += [*_lines(mine, x, y, color=alt.value(COLOURS[0])), _start(base, x, y)]
        size = PANEL, PANEL * HEIGHT / WIDTH
        layers.append(_labels(mine, spans, size, x, y, alt.value(COLOURS[0])))
        panel = alt.layer(*layers).properties(width=size[0], height=size[1], title=alt.Title(name))
        panels.append(panel)
    axes = f"across: {titles['new']}; up: {titles['original']}"
    title = alt.Title([*subtitle, axes, "grey: all the others"], anchor="start", offset=12)
    return styled(alt.concat(*panels, columns=ACROSS).properties(title=title))


def _ground(base, matched, x, y):
    """Return the rules at the base's original score and at the new score where methods are compared."""
    import altair as alt

    rules = [alt.Chart(alt.Data(values=[base])).mark_rule(strokeDash=[4, 4], color=FAINT).encode(y=y)]
    if matched is not None:
        at = alt.Chart(alt.Data(values=[{"new": matched}]))
        rules.insert(0, at.mark_rule(strokeDash=[1, 3], color=FAINT).encode(x=x))
    return rules


def _lines(rows, x, y, **look):
    """Return the layers of each name's points, joined in order."""
    import altair as alt

    chart, colour = alt.Chart(alt.Data(values=rows)), {"color": look["color"]}
    return [
        chart.mark_line(strokeWidth=1.5, opacity=0.6).encode(x=x, y=y, detail="name:N", order="order:Q", **colour),
        chart.mark_point(size=70, filled=True, opacity=1).encode(x=x, y=y, **look),
        alt.Chart(alt.Data(values=[row for row in rows if row.get("last")]))
        .mark_point(size=220, filled=False, strokeWidth=2, shape="circle", opacity=1)
        .encode(x=x, y=y, **colour),
    ]


def _span(rows, base, matched, task, title):
    """Return the scores at the two ends of an axis, the worse one first."""
    reached = matched if task == "new" else None
    low, high = domain([value for value in (*(row[task] for row in rows), base[task], reached) if value is not None])
    return (high, low) if _lower_is_better(title) else (low, high)


def _labels(rows, spans, size, x, y, colour):
    """Return the points' labels, placed without overlap."""
    import altair as alt

    def pixels(row):
        across, up = ((row[task] - spans[task][0]) / (spans[task][1] - spans[task][0]) for task in ("new", "original"))
        return size[0] * across, size[1] * (1 - up)

    labelled = [row for row in rows if row.get("label")]
    marks = [Box(at - MARK, down - MARK, at + MARK, down + MARK) for at, down in map(pixels, rows)]
    sizes = [(LETTER * len(row["label"]), LINE) for row in labelled]
    boxes = place(sizes, [pixels(row) for row in labelled], marks, Box(0, 0, *size))
    shown = []
    for row, box in zip(labelled, boxes, strict=True):
        shares = (box.left + box.right) / 2 / size[0], 1 - (box.top + box.bottom) / 2 / size[1]
        ends = zip(("new", "original"), shares, strict=True)
        shown.append(row | {task: spans[task][0] + share * (spans[task][1] - spans[task][0]) for task, share in ends})
    return alt.Chart(alt.Data(values=shown)).mark_text(fontSize=11).encode(x=x, y=y, text="label:N", color=colour)


def _start(base, x, y):
    """Return the mark of the base, if it has a new score."""
    import altair as alt

    cross = alt.Chart(alt.Data(values=[base] if base["new"] is not None else []))
    return cross.mark_point(size=130, shape="cross", angle=45, filled=True, color=INK, opacity=1).encode(x=x, y=y)


def _lower_is_better(title: str) -> bool:
    return any(f": {name} " in title for name, metric in METRICS.items() if metric.sign < 0)


def _columns(matched: float) -> tuple[Column, ...]:
    return (
        Column("method", lambda front: front.method, number=False),
        Column("settings", lambda front: str(front.settings)),
        Column("seeds", lambda front: str(front.seeds)),
        Column("hypervolume", lambda front: _with_interval(front.hypervolume, 4)),
        Column(f"original at new {matched:.3f}", lambda front: _with_interval(front.original, 3)),
    )


def _with_interval(mean: Estimate, digits: int) -> str:
    half = "" if math.isnan(mean.low) else f" ±{(mean.high - mean.low) / 2:.{digits}f}"
    return f"{mean.value:.{digits}f}{half}"


def _caption() -> str:
    return (
        "hypervolume: the area of new x original that a method's best points dominate, over the worst scores seen; "
        "original at: its best points joined by lines, at the highest new score that all reach; ±: half the 95 % t "
        "interval over seeds"
    )
