"""The picture of some runs: original score against new score, the base among them. SVG and PNG, no browser.

Every mark has its name beside it, and a pair of shape and colour that no other mark has.
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
LETTER, LINE = 7.6, 16  # about the width of a bold letter and the height of a line at 13 pixels
MARK, LEAD = 7, 16  # half the width of a mark; a name further than LEAD pixels from its point has a line to it
TURNED = len(SHAPES) // 2  # each round of colours goes with shapes this much further: no shape meets a like colour
INTERVALS = "bars: 95 % interval of the change from the base, both scored on the same rows"


class Point(NamedTuple):
    """One model in the front: its two scores, each with the ends of an interval (None for no bar). A base without a new
    score is a line across and no mark.
    """

    name: str
    original: float
    new: float | None
    original_interval: tuple[float, float] | None = None
    new_interval: tuple[float, float] | None = None
    method: str | None = None
    """runs of one method have one colour, and a shape each"""


def front_points(runs: Sequence[dict[str, Any]]) -> list[Point]:
    """The base and then each run of run.json data, scored on the test splits; runs that lack a score are left out.

    A run's bars are the 95 % interval of its paired change, set off from the base's score: a bar that misses the
    base's line is a change that is not chance. The base is the first run's; where a run began with a fresh head, the
    base has no new score, and the bars of the new scores are those of the scores themselves.
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
    """The ends of the new score's own interval; None in a record of an older version."""
    found = run.get("scores", {}).get("new")
    return found and (found["low"], found["high"])


def front(
    points: Sequence[Point],
    path_stem: str | Path,
    original: str = "original task: score on test",
    new: str = "new task: score on test",
    bars: str = INTERVALS,
) -> list[Path]:
    """Draw the new score (across) against the original score (up), the first point being the base; up and right is
    better. Writes path_stem.svg and path_stem.png and returns the two paths.

    original and new are the titles of the axes; `axis_title` makes them from a run. `bars` says above the picture
    what the bars are.
    """
    return save(svg(front_chart(points, original, new, bars)), path_stem)


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


def front_chart(points: Sequence[Point], original: str, new: str, bars: str) -> altair.LayerChart | altair.FacetChart:
    """The picture of `front` as an altair chart."""
    import altair as alt

    news = [end for p in points if p.new is not None for end in (p.new, *(p.new_interval or ()))]
    originals = [end for p in points for end in (p.original, *(p.original_interval or ()))]
    across, up = domain(news), domain(originals)
    x = alt.X("new:Q", title=new, scale=alt.Scale(domain=across, nice=False), axis=alt.Axis(values=ticks(news)))
    y = alt.Y(
        "original:Q", title=original, scale=alt.Scale(domain=up, nice=False), axis=alt.Axis(values=ticks(originals))
    )
    rows = [_row(*each) for each in zip(points, styles(points), strict=True)]
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
    said = alt.Title(["dashed: the base's score on the original task", bars], anchor="start", offset=12)
    return styled(alt.layer(*layers).properties(width=size[0], height=size[1], title=said))


def _after_interval(change: dict[str, Any]) -> tuple[float, float] | None:
    """The ends of the paired change as scores: before + low, before + high, within the metric's bounds."""
    if change["low"] is None or change["high"] is None:
        return None
    metric = METRICS[change["metric"]]
    low, high = sorted(change["before"] + metric.sign * change[end] for end in ("low", "high"))
    return max(low, metric.bounds[0]), min(high, metric.bounds[1])


def _size(points: int) -> tuple[float, float]:
    """Width and height of the data area, in pixels."""
    factor = 1 if points <= FEW else LARGER
    return WIDTH * factor, HEIGHT * factor


def looks(number: int) -> tuple[str, str]:
    """Colour and shape of the method of this number, counted from 0; the first 64 pairs differ."""
    rounds = number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], SHAPES[(number + rounds * TURNED + rounds // 2) % len(SHAPES)]


def styles(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Colour and shape of each point, the base's first: a colour for each method and a shape for each of its runs,
    where there are colours and shapes enough; else pairs that differ from point to point.
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
    """The row of a point for the chart."""
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
    """Text layers of the points' names, placed so that none covers another or a mark, and lines to those far off."""
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
        if distance(box, (x, y)) > LEAD and end[0] != x:  # straight up or down it would look like a longer bar
            line = name.mark_rule(color=FAINT, strokeWidth=0.8)
            layers.append(line.encode(x=alt.value(x), y=alt.value(y), x2=alt.value(end[0]), y2=alt.value(end[1])))
        text = name.mark_text(fontSize=13, fontWeight="bold", color=colour)
        middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        layers.append(text.encode(x=alt.value(middle[0]), y=alt.value(middle[1]), text="name:N"))
    return layers
