"""The picture of a diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fft.report.diagnosed.figures import turned
from fft.report.drawing import COLOURS, FAINT, SHAPES, styled
from fft.report.words import loss_word

if TYPE_CHECKING:
    import altair

BACK, ALONE, PREDICTED = "recovered when restored", "lost when it alone is tuned", "predicted by the Fisher"
KINDS = (BACK, ALONE, PREDICTED)
WIDTH, NARROW, ROW = 250, 150, 40  # width of a panel and of the predictions' panel, and height per layer, in pixels
SMALL = 1e-3  # below this, ticks are written as powers of ten


def chart(record: dict[str, Any]) -> altair.HConcatChart:
    """Return a chart of what each layer recovers, and loses alone: in the score, in the loss, and as predicted.

    The prediction has its own axis: it is often smaller by orders of magnitude, and only its ranking matters.
    """
    import altair as alt

    scores, losses, predicted = [], [], []
    for row in record["layers"]:
        scores += [_point(row, BACK, row["put_back"]), _point(row, ALONE, turned(row["alone"]))]
        losses += [_point(row, BACK, turned(row["put_back_rise"])), _point(row, ALONE, row["alone_rise"])]
        predicted.append(_point(row, PREDICTED, {"value": row["predicted"], "low": None, "high": None}))
    drop, metric = turned(record["change"])["value"], record["change"]["metric"]
    panels = (
        _panel(
            record, scores, drop, [f"original {metric},", f"{record['change']['n']:,} test rows"], WIDTH, named=True
        ),
        _panel(record, losses, record["rise"]["value"], ["loss of the original,", "nats"], WIDTH),
        _panel(record, predicted, None, ["predicted loss", "alone, nats"], NARROW),
    )
    title = alt.Title(
        f"dashed: the {loss_word([metric])} of the {metric}, and the rise of the loss, of the tuned model; the three "
        "axes differ",
        anchor="start",
        offset=12,
    )
    return styled(alt.hconcat(*panels, spacing=24).properties(title=title))


def _point(row: dict[str, Any], kind: str, effect: dict[str, Any]) -> dict[str, Any]:
    value = effect["change"] if "change" in effect else effect["value"]
    return {"layer": row["name"], "kind": kind, "value": value, "low": effect["low"], "high": effect["high"]}


def _panel(
    record: dict[str, Any],
    points: list[dict],
    reference: float | None,
    title: list[str],
    width: int,
    named: bool = False,
) -> altair.LayerChart | altair.FacetChart:
    import altair as alt

    order = [row["name"] for row in record["layers"]][::-1]
    axis = alt.Axis(title=None, labels=named, ticks=named, grid=True, tickBand="extent")
    y = alt.Y("layer:N", sort=order, axis=axis, scale=alt.Scale(domain=order))
    looks = {
        "color": alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(KINDS), range=[COLOURS[0], COLOURS[1], COLOURS[3]]),
            # In one column, because entries side by side overlap in viewers with wider fonts.
            legend=alt.Legend(title=None, orient="bottom", labelLimit=300, columns=1),
        ),
        "shape": alt.Shape("kind:N", scale=alt.Scale(domain=list(KINDS), range=list(SHAPES[:3]))),
    }
    shown = [kind for kind in KINDS if any(point["kind"] == kind for point in points)]
    offset = alt.YOffset("kind:N", scale=alt.Scale(domain=shown))
    points_chart = alt.Chart(alt.Data(values=[point for point in points if point["value"] is not None]))
    bars = alt.Chart(alt.Data(values=[point for point in points if point["low"] is not None]))
    ends = [{"at": at, "dash": dash} for at, dash in ((0.0, [1, 0]), (reference, [4, 4])) if at is not None]
    rules = [
        alt.Chart(alt.Data(values=[end])).mark_rule(color=FAINT, strokeDash=end["dash"]).encode(x="at:Q")
        for end in ends
    ]
    values = [end for point in points for end in (point["value"], point["low"], point["high"]) if end is not None]
    small = max(map(abs, values), default=1.0) < SMALL
    axis = alt.Axis(
        tickCount=width // 70,
        format=".0e" if small else "~r",
        labelFlush=False,
        labelOverlap="greedy",
        labelSeparation=6,
    )
    x = alt.X("value:Q", title=title, axis=axis)
    layers = [
        *rules,
        bars.mark_rule(strokeWidth=1.5, opacity=0.7).encode(
            x=alt.X("low:Q", title=title, axis=axis), x2="high:Q", y=y, yOffset=offset, color=looks["color"]
        ),
        points_chart.mark_point(size=55, filled=True, opacity=1.0).encode(x=x, y=y, yOffset=offset, **looks),
    ]
    return alt.layer(*layers).properties(width=width, height=ROW * len(order))
