"""The fronts of methods: a table at equal new-task score, and pictures over strengths and over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fft.fronts import Front, Spread
from fft.metrics import METRICS
from fft.report.drawing import FAINT, INK, domain, save, styled
from fft.report.front import axis_title, looks
from fft.report.tables import Column, markdown_table, rich_table

if TYPE_CHECKING:
    from rich.table import Table

WIDTH, HEIGHT = 560, 380


def fronts_table(found: Sequence[Front], matched: float) -> Table:
    """A row a method: its settings and seeds, hypervolume, and the original score at the new score `matched`."""
    table = rich_table(_columns(matched), found)
    table.caption = _caption()
    return table


def fronts_markdown(found: Sequence[Front], matched: float) -> str:
    """The table of `fronts_table` as Markdown."""
    return f"{markdown_table(_columns(matched), found)}\n\n{_caption()}\n"


def draw_fronts(found: Sequence[Front], matched: float, runs: Sequence[dict[str, Any]], stem: Path) -> list[Path]:
    """New score (across) against original score (up) on test, a line a method through its settings."""
    signs = {task: METRICS[runs[0][task]["metric"]].sign for task in ("new", "original")}
    rows = [
        {"name": front.method, "order": order, "new": signs["new"] * new, "original": signs["original"] * original}
        for front in found
        for order, (new, original) in enumerate(front.points)
    ]
    base = {task: runs[0][task]["before"] for task in ("new", "original")}
    titles = {task: axis_title(runs[0], task) for task in ("new", "original")}
    said = [f"lines: a method over its strengths, means over seeds; dotted: new score {matched:.3f}", "cross: the base"]
    return save(_chart(rows, base, signs["new"] * matched, titles, said), stem)


def draw_steps(runs: Sequence[dict[str, Any]], stem: Path) -> list[Path]:
    """The same two scores on the probe, a line a run through its training steps; [] where no run was scored on its
    way."""
    rows = [
        {"name": run["name"], "order": order, "new": entry["new"], "original": entry["original"]}
        for run in runs
        if run["original"] and len(run["history"]) > 2
        for order, entry in enumerate(run["history"])
        if entry["new"] is not None and entry["original"] is not None
    ]
    if not rows:
        return []
    titles = {task: f"{task} task: {runs[0][task]['metric']} on the probe" for task in ("new", "original")}
    base = {task: rows[0][task] for task in ("new", "original")}
    return save(_chart(rows, base, None, titles, ["lines: a run over its training steps", "cross: the base"]), stem)


def _chart(rows, base, matched, titles, said):
    import altair as alt

    names = list(dict.fromkeys(row["name"] for row in rows))
    pairs = [looks(number) for number in range(len(names))]

    def scaled(task):
        values = [row[task] for row in rows] + [base[task]]
        return alt.Scale(domain=domain(values), nice=False, reverse=_lower_is_better(titles[task]))

    x = alt.X("new:Q", title=titles["new"], scale=scaled("new"))
    y = alt.Y("original:Q", title=titles["original"], scale=scaled("original"))
    colour = alt.Color("name:N", title=None, scale=alt.Scale(domain=names, range=[colour for colour, _ in pairs]))
    shape = alt.Shape("name:N", title=None, scale=alt.Scale(domain=names, range=[shape for _, shape in pairs]))
    lines = alt.Chart(alt.Data(values=rows))
    start = alt.Chart(alt.Data(values=[base]))
    layers = [
        start.mark_rule(strokeDash=[4, 4], color=FAINT).encode(y=y),
        lines.mark_line(strokeWidth=1.5, opacity=0.6).encode(x=x, y=y, color=colour, order="order:Q"),
        lines.mark_point(size=70, filled=True, opacity=1).encode(x=x, y=y, color=colour, shape=shape),
        start.mark_point(size=130, shape="cross", angle=45, filled=True, color=INK, opacity=1).encode(x=x, y=y),
    ]
    if matched is not None:
        at = alt.Chart(alt.Data(values=[{"new": matched}]))
        layers.insert(0, at.mark_rule(strokeDash=[1, 3], color=FAINT).encode(x=x))
    title = alt.Title(said, anchor="start", offset=12)
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def _lower_is_better(title: str) -> bool:
    return any(f": {name} " in title for name, metric in METRICS.items() if metric.sign < 0)


def _columns(matched: float) -> tuple[Column, ...]:
    return (
        Column("method", lambda front: front.method, number=False),
        Column("settings", lambda front: str(front.settings)),
        Column("seeds", lambda front: str(front.seeds)),
        Column("hypervolume", lambda front: _spread(front.hypervolume, 4)),
        Column(f"original at new {matched:.3f}", lambda front: _spread(front.original, 3)),
    )


def _spread(found: Spread, digits: int) -> str:
    if found.interval is None:
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} ±{(found.interval[1] - found.interval[0]) / 2:.{digits}f}"


def _caption() -> str:
    return (
        "hypervolume: the area of new x original that a method's best points dominate, over the worst scores seen; "
        "original at: its best points joined by lines, at the highest new score that all reach; ±: half the 95 % t "
        "interval over seeds"
    )
