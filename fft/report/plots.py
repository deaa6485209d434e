"""Pictures: the front of original against new score, and both tasks' scores over a run. SVG and PNG, no browser.

Every mark has its name beside it, and its own shape as well as its own colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fft.metrics import METRICS
from fft.report.drawing import BAND, COLOURS, FAINT, INK, SHAPES, save, styled, svg, ticks
from fft.report.labels import Box, place

if TYPE_CHECKING:
    import altair

WIDTH, HEIGHT = 560, 380  # of the front's data area, in pixels
PANEL = 200  # the height of one panel of a history
LETTER, LINE = 7.6, 16  # about the width of a bold letter and the height of a line at 13 pixels
NEAR = 130  # marks nearer than this many pixels have their names on opposite sides


class Point(NamedTuple):
    """One model in the front: its two scores, each with the ends of an interval (None for no bar)."""

    name: str
    original: float
    new: float
    original_interval: tuple[float, float] | None = None
    new_interval: tuple[float, float] | None = None


# ---------------------------------------------------------------- the front


def front_points(runs: Sequence[dict[str, Any]]) -> list[Point]:
    """The base and then each run of run.json data, scored on the test splits; runs without an original are left out.

    A run's bars are the 95 % interval of its paired change, set off from the base's score: a bar that misses the
    base's line is a change that is not chance. The base is the first run's.
    """
    runs = [run for run in runs if run["original"] and run["original"]["after"] is not None]
    if not runs:
        return []
    points = [Point("base", runs[0]["original"]["before"], runs[0]["new"]["before"])]
    for run in runs:
        ends = (_after_interval(run[task]) for task in ("original", "new"))
        points.append(Point(run["name"], run["original"]["after"], run["new"]["after"], *ends))
    return points


def front(
    points: Sequence[Point],
    path_stem: str | Path,
    original: str = "original task: score on test",
    new: str = "new task: score on test",
) -> list[Path]:
    """Draw the new score (across) against the original score (up), the first point being the base; up and right is
    better. Writes path_stem.svg and path_stem.png and returns the two paths.

    original and new are the titles of the axes; `axis_title` makes them from a run.
    """
    return save(front_chart(points, original, new), path_stem)


def front_of_runs(runs: Sequence[dict[str, Any]], path_stem: str | Path) -> list[Path]:
    """Draw the `front` of run.json data with their base; draws nothing and returns [] where no run has an original."""
    points = front_points(runs)
    if not points:
        return []
    watched = next(run for run in runs if run["original"])
    return front(points, path_stem, axis_title(watched, "original"), axis_title(watched, "new"))


def axis_title(run: dict[str, Any], task: str) -> str:
    """The title of a task's axis: which task, its metric, the split and how many examples."""
    change = run[task]
    return f"{task} task: {change['metric']} on test, N = {change['n']:,}"


def front_chart(points: Sequence[Point], original: str, new: str) -> altair.LayerChart:
    """The picture of `front` as an altair chart."""
    import altair as alt

    news = [end for p in points for end in (p.new, *(p.new_interval or ()))]
    originals = [end for p in points for end in (p.original, *(p.original_interval or ()))]
    across, up = _domain(news), _domain(originals)
    x = alt.X("new:Q", title=new, scale=alt.Scale(domain=across, nice=False), axis=alt.Axis(values=ticks(news)))
    y = alt.Y(
        "original:Q", title=original, scale=alt.Scale(domain=up, nice=False), axis=alt.Axis(values=ticks(originals))
    )
    rows = [_front_row(point, number) for number, point in enumerate(points)]
    base = alt.Chart(alt.Data(values=rows[:1]))
    methods = alt.Chart(alt.Data(values=rows[1:]))
    colour = alt.Color("colour:N", scale=None)
    layers = [
        base.mark_rule(strokeDash=[4, 4], color=FAINT).encode(y=y),
        methods.mark_rule(strokeWidth=1.5, opacity=0.55).encode(
            x=x, y="original_low:Q", y2="original_high:Q", color=colour
        ),
        methods.mark_rule(strokeWidth=1.5, opacity=0.55).encode(x="new_low:Q", x2="new_high:Q", y=y, color=colour),
        methods.mark_point(size=110, filled=True, opacity=1).encode(
            x=x, y=y, color=colour, shape=alt.Shape("shape:N", scale=None)
        ),
        base.mark_point(size=130, shape="cross", angle=45, filled=True, color=INK, opacity=1).encode(x=x, y=y),
        *_labels(points, across, up, x, y),
    ]
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    return styled(chart)


def _after_interval(change: dict[str, Any]) -> tuple[float, float] | None:
    """The ends of the paired change as scores: before + low, before + high, within the metric's bounds."""
    if change["low"] is None or change["high"] is None:
        return None
    metric = METRICS[change["metric"]]
    low, high = sorted(change["before"] + metric.sign * change[end] for end in ("low", "high"))
    return max(low, metric.bounds[0]), min(high, metric.bounds[1])


def _front_row(point: Point, number: int) -> dict[str, Any]:
    """The row of a point for the chart; the base (number 0) has no colour of its own."""
    original, new = (
        interval or (value, value)
        for value, interval in ((point.original, point.original_interval), (point.new, point.new_interval))
    )
    at = (number - 1) % len(COLOURS)
    return {
        "name": point.name,
        "original": point.original,
        "original_low": original[0],
        "original_high": original[1],
        "new": point.new,
        "new_low": new[0],
        "new_high": new[1],
        "colour": COLOURS[at],
        "shape": SHAPES[at],
    }


def _domain(values: Sequence[float]) -> tuple[float, float]:
    """The least and greatest value with room around them for labels."""
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.05
    return low - room, high + room


def _labels(points: Sequence[Point], across: tuple[float, float], up: tuple[float, float], x: Any, y: Any) -> list:
    """A text layer for each point's name, placed so that none covers another, a mark or a bar."""
    import altair as alt

    def pixel(value: float, domain: tuple[float, float], size: int) -> float:
        return size * (value - domain[0]) / (domain[1] - domain[0])

    centres, marks = [], []
    for point in points:
        px, py = pixel(point.new, across, WIDTH), HEIGHT - pixel(point.original, up, HEIGHT)
        centres.append((px, py))
        marks.append(Box(px - 7, py - 7, px + 7, py + 7))
        left, right = (pixel(end, across, WIDTH) for end in point.new_interval or (point.new, point.new))
        top, bottom = (
            HEIGHT - pixel(end, up, HEIGHT) for end in (point.original_interval or (point.original,) * 2)[::-1]
        )
        marks += [Box(left, py - 2, right, py + 2), Box(px - 2, top, px + 2, bottom)]
    base_line = Box(0, centres[0][1] - 1, WIDTH, centres[0][1] + 1)
    sizes = [(LETTER * len(point.name), LINE) for point in points]
    boxes = place(sizes, centres, [*marks, base_line], Box(0, 0, WIDTH, HEIGHT))
    layers = []
    for number, (point, centre, box) in enumerate(zip(points, centres, boxes, strict=True)):
        row = _front_row(point, number)
        mark = alt.Chart(alt.Data(values=[row])).mark_text(
            dx=(box.left + box.right) / 2 - centre[0],
            dy=(box.top + box.bottom) / 2 - centre[1],
            fontSize=13,
            fontWeight="bold",
            color=COLOURS[(number - 1) % len(COLOURS)] if number else INK,
        )
        layers.append(mark.encode(x=x, y=y, text="name:N"))
    return layers


# ---------------------------------------------------------------- the history


def history(run: dict[str, Any], path_stem: str | Path) -> list[Path]:
    """Draw both tasks' scores on the validation probe against the step; writes path_stem.svg and path_stem.png.

    The upper panel is the original task with the base's score, the band of what may be lost, and the crossover; the
    lower one the new task. A dotted line in both marks the best step, the one that is kept.
    """
    return save(history_chart(run), path_stem)


def history_svg(run: dict[str, Any]) -> str:
    """The picture of `history` as SVG text, for a page."""
    return svg(history_chart(run))


def history_chart(run: dict[str, Any]) -> altair.VConcatChart:
    """The picture of `history` as an altair chart."""
    import altair as alt

    tasks = [task for task in ("original", "new") if run[task] and run["history"][0][task] is not None]
    panels = [_panel(run, task, last=task == tasks[-1]) for task in tasks]
    return styled(alt.vconcat(*panels, spacing=14))


def _panel(run: dict[str, Any], task: str, last: bool) -> altair.LayerChart:
    """One task's scores against the step."""
    import altair as alt

    colour = COLOURS[0] if task == "original" else COLOURS[1]
    rows = [{"step": entry["step"], "score": entry[task]} for entry in run["history"] if entry[task] is not None]
    steps = [0, max(entry["step"] for entry in run["history"])]
    metric = METRICS[run[task]["metric"]]
    bounds = [row["score"] for row in rows]
    tolerance = run["verdict"]["tolerance"] if task == "original" and run["verdict"] else None
    if tolerance is not None:
        bounds.append(rows[0]["score"] - metric.sign * tolerance)
    low, high = _domain(bounds)
    x = alt.X(
        "step:Q",
        title="step" if last else None,
        axis=alt.Axis(labels=last, tickMinStep=1, tickCount=8),
        scale=alt.Scale(domain=steps, nice=False),
    )
    y = alt.Y(
        "score:Q",
        title=[f"{task} task", f"{metric.name}, validation probe"],
        scale=alt.Scale(domain=[low, high], nice=False),
        axis=alt.Axis(values=ticks(bounds)),
    )
    data = alt.Chart(alt.Data(values=rows))
    layers = [] if tolerance is None else _tolerance_band(rows[0]["score"], metric.sign, tolerance, steps, x, y)
    layers += _step_marks(run, task, x)
    layers += [
        data.mark_line(strokeWidth=2.5, color=colour).encode(x=x, y=y),
        data.mark_point(size=45, filled=True, opacity=1, color=colour).encode(x=x, y=y),
    ]
    panel = alt.layer(*layers).properties(width=WIDTH, height=PANEL)
    if tolerance is None:
        return panel
    said = f"dashed: the base's score; shaded: the accepted drop of {tolerance:g}"
    return panel.properties(title=alt.Title(said, anchor="start", offset=20))


def _tolerance_band(base: float, sign: int, tolerance: float, steps: Sequence[int], x: Any, y: Any) -> list:
    """The base's score as a dashed line, and the band between it and what may be lost of it."""
    import altair as alt

    edge = base - sign * tolerance
    chart = alt.Chart(alt.Data(values=[{"step": step, "score": base, "edge": edge} for step in steps]))
    return [
        chart.mark_area(color=BAND, opacity=0.18).encode(x=x, y=y, y2="edge:Q"),
        chart.mark_line(color=FAINT, strokeDash=[4, 4], strokeWidth=1).encode(x=x, y=y),
    ]


def _step_marks(run: dict[str, Any], task: str, x: Any) -> list:
    """Vertical lines at the best step and, for the original, at the crossover; the first panel has their names on top.

    Two names that would meet stand on opposite sides of their lines.
    """
    import altair as alt

    marks = [(run["best_step"], "best step", INK, [1, 3])]
    if task == "original":
        marks.append((run["crossover"], "crossover", COLOURS[3], [6, 3]))
    marks = sorted((mark for mark in marks if mark[0] is not None), key=lambda mark: mark[0])
    pixels = [WIDTH * mark[0] / max(1, run["history"][-1]["step"]) for mark in marks]
    near = len(marks) == 2 and pixels[1] - pixels[0] < NEAR
    layers = []
    for number, (step, name, colour, dash) in enumerate(marks):
        data = alt.Chart(alt.Data(values=[{"step": step, "name": f"{name} {step}"}]))
        layers.append(data.mark_rule(color=colour, strokeDash=dash, strokeWidth=1.5).encode(x=x))
        if task == "original" or not run["original"]:
            before = near and number == 0
            text = data.mark_text(align="right" if before else "left", dx=-3 if before else 3, color=colour)
            layers.append(text.encode(x=x, y=alt.value(-8), text="name:N"))
    return layers
