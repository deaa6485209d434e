"""The picture of a diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fft.report.diagnosed.figures import turned
from fft.report.drawing import COLOURS, FAINT, SHAPES, styled

if TYPE_CHECKING:
    import altair

BACK, ALONE, PREDICTED = "comes back when put back", "lost when it alone is tuned", "predicted by the Fisher"
KINDS = (BACK, ALONE, PREDICTED)
WIDTH, NARROW, ROW = 250, 150, 40  # pixels of a panel, of the one of predictions, and of a layer in it
SMALL = 1e-3  # below it ticks are written as powers of ten


def chart(record: dict[str, Any]) -> altair.HConcatChart:
    """Layer by layer, what comes back and what is lost alone: in the score, in the loss, and as it was predicted.

    The prediction has an axis of its own: it is often smaller by orders of magnitude, and its order is what it is for.
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
    said = alt.Title(
        "dashed: the drop, and the rise of the loss, of the whole tuned model; the three axes differ",
        anchor="start",
        offset=12,
    )
    return styled(alt.hconcat(*panels, spacing=24).properties(title=said))


def _point(row: dict[str, Any], kind: str, found: dict[str, Any]) -> dict[str, Any]:
    value = found["change"] if "change" in found else found["value"]
    return {"layer": row["name"], "kind": kind, "value": value, "low": found["low"], "high": found["high"]}


def _panel(
    record: dict[str, Any], points: list[dict], whole: float | None, title: list[str], width: int, named: bool = False
) -> altair.LayerChart | altair.FacetChart:
    import altair as alt

    order = [row["name"] for row in record["layers"]][::-1]
    axis = alt.Axis(title=None, labels=named, ticks=named, grid=True, tickBand="extent")
    y = alt.Y("layer:N", sort=order, axis=axis, scale=alt.Scale(domain=order))
    looks = {
        "color": alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(KINDS), range=[COLOURS[0], COLOURS[1], COLOURS[3]]),
            # One below the other: beside each other they overlap where a reader has a wider font than was measured.
            legend=alt.Legend(title=None, orient="bottom", labelLimit=300, columns=1),
        ),
        "shape": alt.Shape("kind:N", scale=alt.Scale(domain=list(KINDS), range=list(SHAPES[:3]))),
    }
    shown = [kind for kind in KINDS if any(point["kind"] == kind for point in points)]
    offset = alt.YOffset("kind:N", scale=alt.Scale(domain=shown))
    found = alt.Chart(alt.Data(values=[point for point in points if point["value"] is not None]))
    bars = alt.Chart(alt.Data(values=[point for point in points if point["low"] is not None]))
    ends = [{"at": at, "dash": dash} for at, dash in ((0.0, [1, 0]), (whole, [4, 4])) if at is not None]
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
        found.mark_point(size=55, filled=True, opacity=1.0).encode(x=x, y=y, yOffset=offset, **looks),
    ]
    return alt.layer(*layers).properties(width=width, height=ROW * len(order))
