"""What `fft diagnose` found, for people: tables on the terminal, a picture, one HTML page. All read diagnose.json."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fft.record import replace_file
from fft.report.drawing import COLOURS, FAINT, SHAPES, save, styled, svg
from fft.report.html import document, flat, notes, pairs, table
from fft.report.tables import NONE, Column, half_width, percent, rich_table, score, signed

if TYPE_CHECKING:
    import altair
    from rich.console import Console

HEADLINES = {
    "misaligned": ("pass", "Mostly kept: the features still hold it, the head no longer fits them"),
    "gone": ("fail", "Mostly gone: the features lost it, no head brings it back"),
    "undecided": ("undecided", "Undecided: these test rows do not settle whether features or head lost most of it"),
    "nothing": ("none", "Nothing to explain: these test rows show no drop"),
}
BACK, ALONE, PREDICTED = "comes back when put back", "lost when it alone is tuned", "predicted by the Fisher"
KINDS = (BACK, ALONE, PREDICTED)
WIDTH, NARROW, ROW = 250, 130, 40  # pixels of a panel, of the one of predictions, and of a layer in it
SPREAD = 0.5  # of the drop: where no layer gives that much back, no one layer did it

# ---------------------------------------------------------------- tables


def _turned(change: dict[str, Any]) -> dict[str, Any]:
    """A change, or a rise, the other way round: what was lost as a positive number."""
    value = change["change"] if "change" in change else change["value"]
    low, high = change["low"], change["high"]
    turned = [None if end is None else 0.0 - end for end in (value, high, low)]
    return dict(zip(("value", "low", "high"), turned, strict=True))


def _figure(found: dict[str, Any]) -> str:
    value = found["change"] if "change" in found else found["value"]
    return NONE if value is None else f"{signed(value)} {half_width(found)}"


PARTS = (
    Column("layer", lambda row: row["name"], number=False),
    Column("moved", lambda row: NONE if row["distance"] is None else percent(100 * row["distance"])),
    Column("score back", lambda row: _figure(row["put_back"])),
    Column("loss back", lambda row: _figure(_turned(row["put_back_rise"]))),
    Column("score lost alone", lambda row: _figure(_turned(row["alone"]))),
    Column("loss alone", lambda row: _figure(row["alone_rise"])),
    Column("predicted", lambda row: _small(row["predicted"])),
)
STEPS = (
    Column("put back", lambda step: step["layer"], number=False),
    Column("of the drop is back", lambda step: _share(step["back"])),
    Column("loss", lambda step: score(step["loss"])),
)


def caption(record: dict[str, Any]) -> str:
    """What the columns of the table of layers mean."""
    change, fisher = record["change"], record["fisher"]
    return (
        f"back: original {change['metric']} and loss on {change['n']:,} test rows when the layer is put back to the "
        "base, the rest as tuned; alone: the base with that layer tuned; ±: half the paired 95 % interval; moved: "
        f"‖θ − θ*‖ / ‖θ*‖; predicted: ½ (θ − θ*)ᵀ F (θ − θ*), nats, F of the base ({fisher['estimator']}, "
        f"{fisher['examples']:,} training rows)"
    )


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers, the roles within the blocks, and everything together."""
    together = {
        "name": "everything",
        "distance": None,
        "put_back": _turned(record["change"]),
        "put_back_rise": _turned(record["rise"]),
        "alone": record["change"],
        "alone_rise": record["rise"],
        "predicted": record["predicted"],
    }
    roles = [{**role, "name": f"all {role['name']}"} for role in record["roles"]]
    return [*record["layers"], *roles, together]


def _small(value: float | None) -> str:
    """A prediction, which may be of any size: two digits that count."""
    return NONE if value is None else f"{value:.2g}"


def _share(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.0f} %".replace("-", "−")


# ---------------------------------------------------------------- in words


def lost_sentence(record: dict[str, Any]) -> str:
    """What was lost between the two models."""
    change, loss = record["change"], record["loss"]
    return (
        f"original {change['metric']} {score(change['before'])} → {score(change['after'])} on {change['n']:,} test "
        f"rows, a drop of {_figure(_turned(change))}; loss {score(loss['base'])} → {score(loss['tuned'])} nats"
    )


def layer_sentence(record: dict[str, Any]) -> str:
    """The layer that gives most back, and the one that loses most alone; empty where nothing is lost."""
    if not record["lost"]:
        return ""
    best, role = (_most_back(record[name]) for name in ("layers", "roles"))
    worst = min(record["layers"], key=lambda row: (_value(row["alone"]), -_value(row["alone_rise"])))
    spread = _value(best["put_back"]) < SPREAD * _value(_turned(record["change"]))
    return (
        f"most comes back with {best['name']}: {_figure(best['put_back'])}"
        f"{', less than half of the drop: no one layer did it' if spread else ''}; tuned alone, {worst['name']} loses "
        f"most: {_figure(_turned(worst['alone']))}; of the parts of all blocks, {role['name']} gives most back: "
        f"{_figure(role['put_back'])}; layers work together, so none of these figures add up to the drop"
    )


def _most_back(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: (_value(row["put_back"]), -_value(row["put_back_rise"])))


def _value(found: dict[str, Any]) -> float:
    value = found["change"] if "change" in found else found["value"]
    return 0.0 if value is None else round(value, 9)


def prediction_sentence(record: dict[str, Any]) -> str:
    """The predicted beside the measured rise of the loss, and whether the layers come in the same order."""
    rise, predicted, order = record["rise"], record["predicted"], record["order"]
    said = f"the Fisher information predicts a rise of the loss of {_small(predicted)} nats, measured are "
    said += _figure(rise)
    if predicted and rise["value"] is not None:
        times = rise["value"] / predicted
        said += f", {times:,.0f} times as much" if abs(times) >= 10 else f", {times:.2g} times as much"
    said += ": the prediction is local, to second order and without what parameters do together"
    if order is not None:
        said += f"; over the layers alone the two agree in their order with Spearman's ρ {order:.2f}".replace("-", "−")
    return said


def head_sentence(record: dict[str, Any]) -> str:
    """What a head fitted anew brings back, and what of the drop is missing from the features."""
    refit = record["refit"]
    metric, missing, kept = record["change"]["metric"], _turned(refit["missing"]), refit["kept"]
    rows = refit["fitted"]["tuned"]["rows"]
    said = (
        f"a head fitted anew to the frozen tuned features ({rows:,} training rows) brings {_figure(refit['back'])} "
        f"back, to {metric} {score(refit['back']['after'])}; one fitted to the base's features reaches "
        f"{score(refit['reference']['after'])}, so {_figure(missing)} is missing from the features"
    )
    if refit["outcome"] == "nothing":
        return said
    drop = 0.0 - record["change"]["change"]
    ends = "" if kept["low"] is None else f" ({_share(kept['low'])} to {_share(kept['high'])})"
    said += f": of the drop of {drop:.3f} {_share(kept['value'])}{ends} is not the features'"
    return (
        said
        + {
            "misaligned": "; features kept, head misaligned",
            "gone": "; the knowledge is gone from the features",
            "undecided": "; which of the two lost most of it, these test rows do not settle",
        }[refit["outcome"]]
    )


def flags(record: dict[str, Any]) -> str:
    """The proposal as flags of `fft tune`; empty where there is none."""
    proposal = record["proposal"]
    if proposal is None or proposal["all"]:
        return ""
    return f"--method freeze --freeze.pattern {shlex.quote(proposal['pattern'])}"


def proposal_sentence(record: dict[str, Any]) -> str:
    """What is proposed for the next run, and on what grounds."""
    proposal = record["proposal"]
    if proposal is None:
        return ""
    names = ", ".join(step["layer"] for step in proposal["steps"])
    enough = f"{100 * proposal['enough']:.0f} % of the drop on the validation rows"
    if proposal["all"]:
        return (
            f"no set of layers but all of them gives {enough} back, so no freeze is proposed; a gentler method, such "
            "as --method lora or --method kl, moves all of them less"
        )
    return (
        f"{names} put back together give {_figure(proposal['put_back'])} back on the test rows; found greedily as the "
        f"fewest layers that give {enough} back. To freeze them in the next run is a proposal, not a measured result: "
        "the other layers would learn differently, and the new task was not scored"
    )


def sentences(record: dict[str, Any]) -> list[str]:
    """All that is said, in order."""
    said = (lost_sentence, layer_sentence, prediction_sentence, head_sentence, proposal_sentence)
    return [text for text in (sentence(record) for sentence in said) if text]


def show(record: dict[str, Any], console: Console) -> None:
    """Print the notes, the table of layers, what follows from it, and the flags that are proposed."""
    for note in record["notes"]:
        console.out(f"note: {note}", highlight=False)
    made = rich_table(PARTS, _rows(record))
    made.caption = caption(record)
    console.print(made)
    console.out(HEADLINES[record["refit"]["outcome"]][1], highlight=False)
    for said in sentences(record):
        console.out(f"- {said}", highlight=False)
    if flags(record):
        console.out(f"proposed for the next fft tune, not a measured result: {flags(record)}", highlight=False)


# ---------------------------------------------------------------- the picture


def chart(record: dict[str, Any]) -> altair.HConcatChart:
    """Layer by layer, what comes back and what is lost alone: in the score, in the loss, and as it was predicted.

    The prediction has an axis of its own: it is often smaller by orders of magnitude, and its order is what it is for.
    """
    import altair as alt

    scores, losses, predicted = [], [], []
    for row in record["layers"]:
        scores += [_point(row, BACK, row["put_back"]), _point(row, ALONE, _turned(row["alone"]))]
        losses += [_point(row, BACK, _turned(row["put_back_rise"])), _point(row, ALONE, row["alone_rise"])]
        predicted.append(_point(row, PREDICTED, {"value": row["predicted"], "low": None, "high": None}))
    drop, metric = _turned(record["change"])["value"], record["change"]["metric"]
    panels = (
        _panel(record, scores, drop, f"original {metric}, N = {record['change']['n']:,}", WIDTH, named=True),
        _panel(record, losses, record["rise"]["value"], "loss of the original, nats", WIDTH),
        _panel(record, predicted, None, "predicted loss alone, nats", NARROW),
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
    record: dict[str, Any], points: list[dict], whole: float | None, title: str, width: int, named: bool = False
) -> altair.LayerChart:
    import altair as alt

    order = [row["name"] for row in record["layers"]][::-1]
    axis = alt.Axis(title=None, labels=named, ticks=named, grid=True, tickBand="extent")
    y = alt.Y("layer:N", sort=order, axis=axis, scale=alt.Scale(domain=order))
    looks = {
        "color": alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(KINDS), range=[COLOURS[0], COLOURS[1], COLOURS[3]]),
            legend=alt.Legend(title=None, orient="bottom", labelLimit=300),
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
    x = alt.X("value:Q", title=title, axis=alt.Axis(tickCount=width // 45))
    layers = [
        *rules,
        bars.mark_rule(strokeWidth=1.5, opacity=0.7).encode(
            x=alt.X("low:Q", title=title), x2="high:Q", y=y, yOffset=offset, color=looks["color"]
        ),
        found.mark_point(size=55, filled=True, opacity=1.0).encode(x=x, y=y, yOffset=offset, **looks),
    ]
    return alt.layer(*layers).properties(width=width, height=ROW * len(order))


# ---------------------------------------------------------------- the page


def page(record: dict[str, Any]) -> str:
    """The page of a diagnosis as HTML text; it loads nothing."""
    return document("fft diagnose", (section(record) for section in SECTIONS))


def _verdict(record: dict[str, Any]) -> str:
    kind, title = HEADLINES[record["refit"]["outcome"]]
    said = "".join(_paragraph(sentence(record)) for sentence in (lost_sentence, head_sentence))
    return f'<div class="verdict {kind}"><h2>{escape(title)}</h2>{said}</div>'


def _paragraph(text: str) -> str:
    return f"<p>{escape(text[:1].upper() + text[1:])}.</p>" if text else ""


def _layers(record: dict[str, Any]) -> str:
    said = f"{_paragraph(layer_sentence(record))}{_paragraph(prediction_sentence(record))}"
    legend = "Bars: paired 95 % intervals. Roles are those of all blocks together."
    drawn = f"<figure>{svg(chart(record))}<figcaption>{legend}</figcaption></figure>"
    note = f"<p class='note'>{escape(caption(record))}</p>"
    return f"<h2>Layers</h2>\n{said}{drawn}{table(PARTS, _rows(record))}\n{note}"


def _proposed(record: dict[str, Any]) -> str:
    if record["proposal"] is None:
        return ""
    fragment = f"<pre>{escape(flags(record))}</pre>" if flags(record) else ""
    rows = f"<p class='note'>In the order of the search, on {record['rows']['validation']:,} validation rows.</p>"
    steps = table(STEPS, record["proposal"]["steps"])
    return f"<h2>A proposal</h2>\n{fragment}{_paragraph(proposal_sentence(record))}{steps}\n{rows}"


def _settings(record: dict[str, Any]) -> str:
    names = ("base", "tuned", "heads", "data", "rows", "fisher", "refit", "seed", "device", "seconds", "versions")
    return f"<h2>Settings</h2>\n{pairs(list(flat({name: record[name] for name in names})))}"


SECTIONS = (_verdict, _layers, _proposed, lambda record: notes(record["notes"]), _settings)


def write(record: dict[str, Any], out: Path) -> None:
    """Write layers.svg, layers.png and report.html into `out`; MachineError where they cannot be written."""
    save(chart(record), out / "layers")
    replace_file(out / "report.html", page(record).encode())
