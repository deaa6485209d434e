"""The picture of runs and their base: original score against new score, as SVG and PNG.

Every mark is labelled, and has its own combination of shape and colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fft.report.drawing import COLOURS, FAINT, INK, SHAPES, domain, save, styled, svg, ticks
from fft.report.labels import Box, distance, nearest, place
from fft.stats.ablation import method_label
from fft.stats.metrics import METRICS
from fft.stats.retention import is_scored, starts_fresh

if TYPE_CHECKING:
    import altair

WIDTH, HEIGHT = 560, 380  # of the data area, in pixels
FEW, LARGER = 8, 1.4  # more points than FEW are drawn LARGER
LETTER, LINE = 7.6, 16  # approximate width of a bold letter and height of a line at 13 pixels
MARK, LEAD = 7, 16  # half the width of a mark; a label further than LEAD pixels from its point gets a leader line
TURNED = len(SHAPES) // 2  # shift of the shapes after each round of colours, so that similar colours differ in shape
INTERVALS = "bars: 95 % interval of the change from the base, both scored on the same rows"


class Point(NamedTuple):
    """One model in the picture: its two scores, each with the ends of an interval (None for no bar).

    A base without a new score is drawn as a horizontal line without a mark.
    """

    name: str
    original: float
    new: float | None
    original_interval: tuple[float, float] | None = None
    new_interval: tuple[float, float] | None = None
    method: str | None = None
    """runs of one method share a colour and differ in shape"""


def front_points(runs: Sequence[dict[str, Any]]) -> list[Point]:
    """Return the base and then each run of run.json data, with test scores; runs without both scores are left out.

    A run's bars are the 95 % interval of its paired change, added to the base's score: if a bar misses the base's line,
    the change is significant. The base is that of the first run. If a run started with a new head, the base has no new
    score, and the bars of new scores are the intervals of the scores themselves.
    """
    runs = [run for run in runs if is_scored(run["original"]) and is_scored(run["new"])]
    if not runs:
        return []
    fresh = any(map(starts_fresh, runs))
    points = [Point("base", runs[0]["original"]["before"], None if fresh else runs[0]["new"]["before"])]
    for run in runs:
        original, new = _after_interval(run["original"]), _alone(run) if fresh else _after_interval(run["new"])
        scores = run["original"]["after"], run["new"]["after"], original, new
        points.append(Point(run["name"], *scores, method_label(run)))
    return points


def _alone(run: dict[str, Any]) -> tuple[float, float] | None:
    """Return the interval of the new score itself; None for records of older versions."""
    score = run.get("scores", {}).get("new")
    return score and (score["low"], score["high"])


def front(
    points: Sequence[Point],
    path_stem: str | Path,
    original: str = "original task: score on test",
    new: str = "new task: score on test",
    bars: str = INTERVALS,
) -> list[Path]:
    """Draw the original score (y) against the new score (x) of the points, of which the first is the base.

    Write path_stem.svg and path_stem.png and return their paths. `original` and `new` are the axis titles, as from
    `axis_title`; `bars` explains the bars above the picture.
    """
    return save(svg(front_chart(points, original, new, bars)), path_stem)


def front_of_runs(runs: Sequence[dict[str, Any]], path_stem: str | Path) -> list[Path]:
    """Draw the `front` of run.json data and their base; return [] if no run has an original task."""
    points = front_points(runs)
    if not points:
        return []
    watched = next(run for run in runs if run["original"])
    return front(points, path_stem, axis_title(watched, "original"), axis_title(watched, "new"))


def axis_title(run: dict[str, Any], task: str) -> str:
    """Return the axis title of a task: its name, metric, split and number of examples."""
    change = run[task]
    side = ", lower is better" if METRICS[change["metric"]].sign < 0 else ""
    return f"{task} task: {change['metric']} on test, N = {change['n']:,}{side}"


def front_chart(points: Sequence[Point], original: str, new: str, bars: str) -> altair.LayerChart | altair.FacetChart:
    """Return the picture of `front` as an altair chart."""
    import altair as alt

    news = [end for p in points if p.new is not None for end in (p.new, *(p.new_interval or ()))]
    originals = [end for p in points for end in (p.original, *(p.original_interval or ()))]
    across, up = domain(news), domain(originals)
    x = alt.X("new:Q", title=new, scale=alt.Scale(domain=across, nice=False), axis=alt.Axis(values=ticks(news)))
    y = alt.Y(
        "original:Q", title=original, scale=alt.Scale(domain=up, nice=False), axis=alt.Axis(values=ticks(originals))
    )
    rows = [_row(point, style) for point, style in zip(points, styles(points), strict=True)]
    base = alt.Chart(alt.Data(values=rows[:1]))
    methods = alt.Chart(alt.Data(values=rows[1:]))
    colour = alt.Color("colour:N", scale=None)
    size = _size(len(points))
    layers = [
        base.mark_rule(strokeDash=[4, 4], color=FAINT).encode(y=y),
        methods.mark_rule(strokeWidth=1.5, opacity=0.45).encode(
            x=x, y="original_low:Q", y2="original_high:Q", color=colour
        ),
        methods.mark_rule(strokeWidth=1.5, opacity=0.45).encode(x="new_low:Q", x2="new_high:Q", y=y, color=colour),
        *_labels(points, across, up, size),
        methods.mark_point(size=110, filled=True, opacity=1).encode(
            x=x, y=y, color=colour, shape=alt.Shape("shape:N", scale=None)
        ),
    ]
    if points[0].new is not None:
        cross = base.mark_point(size=130, shape="cross", angle=45, filled=True, color=INK, opacity=1)
        layers.append(cross.encode(x=x, y=y))
    title = alt.Title(["dashed: the base's score on the original task", bars], anchor="start", offset=12)
    return styled(alt.layer(*layers).properties(width=size[0], height=size[1], title=title))


def _after_interval(change: dict[str, Any]) -> tuple[float, float] | None:
    """Return the interval of the paired change as scores, clipped to the metric's bounds."""
    if change["low"] is None or change["high"] is None:
        return None
    metric = METRICS[change["metric"]]
    low, high = sorted(change["before"] + metric.sign * change[end] for end in ("low", "high"))
    return max(low, metric.bounds[0]), min(high, metric.bounds[1])


def _size(points: int) -> tuple[float, float]:
    """Return width and height of the data area, in pixels."""
    factor = 1 if points <= FEW else LARGER
    return WIDTH * factor, HEIGHT * factor


def looks(number: int) -> tuple[str, str]:
    """Return colour and shape for a number counted from 0; the first 64 pairs differ."""
    rounds = number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], SHAPES[(number + rounds * TURNED + rounds // 2) % len(SHAPES)]


def styles(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Return colour and shape of each point, the base first.

    Each method has a colour and each of its runs a shape, if there are enough; else each point has its own pair.
    """
    methods: dict[str | None, list[int]] = {}
    for at, point in enumerate(points[1:]):
        methods.setdefault(point.method, []).append(at)
    enough = len(methods) <= len(COLOURS) and max(map(len, methods.values()), default=0) <= len(SHAPES)
    if None in methods or not enough:
        return [(INK, "cross"), *map(looks, range(len(points) - 1))]
    named = list(methods)
    places = [(named.index(point.method), methods[point.method].index(at)) for at, point in enumerate(points[1:])]
    return [(INK, "cross"), *((COLOURS[method], SHAPES[(method + run) % len(SHAPES)]) for method, run in places)]


def _row(point: Point, style: tuple[str, str]) -> dict[str, Any]:
    """Return the chart data of a point."""
    original, new = (
        interval or (value, value)
        for value, interval in ((point.original, point.original_interval), (point.new, point.new_interval))
    )
    colour, shape = style
    return {
        "name": point.name,
        "original": point.original,
        "original_low": original[0],
        "original_high": original[1],
        "new": point.new,
        "new_low": new[0],
        "new_high": new[1],
        "colour": colour,
        "shape": shape,
    }


def _labels(
    points: Sequence[Point], across: tuple[float, float], up: tuple[float, float], size: tuple[float, float]
) -> list:
    """Return text layers of the points' names, without overlap, and leader lines to distant ones."""
    import altair as alt

    width, height = size

    def right(value: float) -> float:
        return width * (value - across[0]) / (across[1] - across[0])

    def down(value: float) -> float:
        return height - height * (value - up[0]) / (up[1] - up[0])

    placed = [(number, point, point.new) for number, point in enumerate(points) if point.new is not None]
    centres, bars = [(right(new), down(point.original)) for _, point, new in placed], []
    marks = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in centres]
    for (_, point, new), (x, y) in zip(placed, centres, strict=True):
        low, high = point.new_interval or (new,) * 2
        bars.append(Box(right(low), y - 2, right(high), y + 2))
        low, high = point.original_interval or (point.original,) * 2
        bars.append(Box(x - 2, down(high), x + 2, down(low)))
    base_line = Box(0, down(points[0].original) - 1, width, down(points[0].original) + 1)
    sizes = [(LETTER * len(point.name), LINE) for _, point, _ in placed]
    boxes = place(sizes, centres, [*marks, *bars, base_line], Box(0, 0, width, height))
    layers, colours = [], styles(points)
    for (number, point, _), (x, y), box in zip(placed, centres, boxes, strict=True):
        colour = colours[number][0]
        name = alt.Chart(alt.Data(values=[{"name": point.name}]))
        end = nearest(box, (x, y))
        if distance(box, (x, y)) > LEAD and end[0] != x:  # a vertical leader line would look like an error bar
            line = name.mark_rule(color=FAINT, strokeWidth=0.8)
            layers.append(line.encode(x=alt.value(x), y=alt.value(y), x2=alt.value(end[0]), y2=alt.value(end[1])))
        text = name.mark_text(fontSize=13, fontWeight="bold", color=colour)
        middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        layers.append(text.encode(x=alt.value(middle[0]), y=alt.value(middle[1]), text="name:N"))
    return layers
