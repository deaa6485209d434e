"""Reports of `fft repair` from repair.json data: a table on the terminal, a picture, one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fft.core.naming import counted
from fft.disk.files import replace_file
from fft.report.drawing import COLOURS, FAINT, INK, SHAPES, domain, save, styled, svg, ticks
from fft.report.html import document, flat, notes, pairs, paragraph, table
from fft.report.labels import Box, place
from fft.report.tables import Column, half_width, rich_table, score, signed, worded
from fft.report.verdict import box, sentence
from fft.report.words import loss_word
from fft.stats.metrics import METRICS

if TYPE_CHECKING:
    import altair
    from rich.console import Console

KINDS = {
    "alpha": "one α",
    "layers": "α by layer",
    "ties": "TIES",
    "dare": "DARE",
    "fisher": "Fisher",
}
WIDTH, HEIGHT = 560, 380  # of the data area, in pixels

# ---------------------------------------------------------------- in words


def described(candidate: dict[str, Any]) -> str:
    """Describe a candidate briefly: `α 0.35`, `TIES density 0.2, scale 0.5`."""
    settings = candidate["settings"]
    if candidate["kind"] == "alpha":
        return {0.0: "the base (α 0)", 1.0: "the tuned model (α 1)"}.get(settings["alpha"], f"α {settings['alpha']:g}")
    if candidate["kind"] == "layers":
        return f"α by layer: {_by_layer(settings['alphas'])}"
    return f"{KINDS[candidate['kind']]} " + ", ".join(f"{name} {value:.3g}" for name, value in settings.items())


def _by_layer(alphas: dict[str, float]) -> str:
    """Return the α of each layer, grouping neighbours of equal α: `embeddings 0.5, layers/0–layers/4 1, top 0`."""
    groups = []
    for alpha, group in groupby(alphas, key=alphas.get):
        first, *others = group
        groups.append(f"{first}{f'–{others[-1]}' if others else ''} {alpha:g}")
    return ", ".join(groups)


def headline(record: dict[str, Any]) -> str:
    """Return what was chosen on the validation rows, or by how much the nearest candidate missed the budget."""
    tried = record["candidates"]
    if record["chosen"] is not None:
        choice = tried[record["chosen"]]
        return (
            f"chosen of {len(tried)} on the validation rows: {described(choice)}, original {score(choice['original'])} "
            f"({_word(record)} {signed(choice['drop'])}), new {score(choice['new'])}"
        )
    text = f"nothing better than the base was found: of {counted(len(tried), 'candidate')} none that gains on the new "
    text += f"task keeps the original's {_word(record)} within {record['margin']:.3g} on the validation rows"
    if record["nearest"] is None:
        return text
    nearest = tried[record["nearest"]]
    over = nearest["drop"] - record["margin"]
    drop = f"{_word(record)} of {nearest['drop']:.4f}"
    return f"{text}; the nearest is {described(nearest)}, whose {drop} is {over:.4f} too much"


def tuned_sentence(record: dict[str, Any]) -> str:
    """Return what tuning lost on the original task, and what the repair changes on the new one, on the test rows."""
    tuned, given_up = record["tuned_change"]["original"], record["given_up"]
    if tuned["undefined"]:
        text = f"the {_word(record)} of the tuned model's original {tuned['metric']} is unknown"
    else:
        lost = None if tuned["change"] is None else 0.0 - tuned["change"]
        text = f"the tuned model's original {tuned['metric']} is {score(tuned['after'])}, a {_word(record)} of "
        text += f"{signed(lost)} {half_width(tuned)}"
    if given_up is None or given_up["undefined"]:
        return text
    return (
        f"{text}; the repaired model's new {given_up['metric']} is {score(given_up['after'])} instead of "
        f"{score(given_up['before'])}, a change of {signed(given_up['change'])} {half_width(given_up)}"
    )


# ---------------------------------------------------------------- tables


VALIDATION = (
    Column("candidate", described, number=False),
    Column("original", lambda row: score(row["original"])),
    Column("drop", lambda row: signed(row["drop"])),
    Column("new", lambda row: score(row["new"])),
    Column("gain", lambda row: signed(row["gain"])),
    Column("accepted", lambda row: "chosen" if row["chosen"] else "yes" if row["within"] else "no", number=False),
)


def _validation(record: dict[str, Any]) -> tuple[Column, ...]:
    return worded(VALIDATION, [_metric(record, "original")])


def _word(record: dict[str, Any]) -> str:
    return loss_word([_metric(record, "original")])


def _marked(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**candidate, "chosen": at == record["chosen"]} for at, candidate in enumerate(record["candidates"])]


def _best_of_kinds(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the base, the tuned model, the best of every kind within the budget, and the chosen one, each once."""
    rows = _marked(record)
    picked = rows[:2]
    for kind in KINDS:
        within = [row for row in rows if row["kind"] == kind and row["within"] and row["gain"] is not None]
        picked += [max(within, key=lambda row: (row["gain"], -row["drop"]))] if within else []
    picked += [row for row in rows if row["chosen"]]
    return [row for at, row in enumerate(picked) if row not in picked[:at]]


def show(record: dict[str, Any], console: Console) -> None:
    """Print the notes, the best of every kind, the choice, and the verdict."""
    for note in record["notes"]:
        console.out(f"note: {note}", highlight=False)
    caption = f"scores on the validation rows; the best of each kind within the accepted {_word(record)}"
    console.print(rich_table(_validation(record), _best_of_kinds(record), caption))
    for text in (headline(record), sentence(record), tuned_sentence(record)):
        if text:
            console.out(text, highlight=False)


# ---------------------------------------------------------------- the picture


def chart(record: dict[str, Any]) -> altair.LayerChart | altair.FacetChart:
    """Return a chart of original score (y) against new score (x) of all candidates, on the validation rows."""
    import altair as alt

    rows = [
        {**candidate, "label": KINDS[candidate["kind"]]}
        for candidate in _marked(record)
        if candidate["original"] is not None and candidate["new"] is not None
    ]
    limit = record["candidates"][0]["original"] - METRICS[_metric(record, "original")].sign * record["margin"]
    kinds = [label for label in KINDS.values() if any(row["label"] == label for row in rows)]
    news, originals = [row["new"] for row in rows], [*(row["original"] for row in rows), limit]
    x, y = (
        alt.X("new:Q", title=_axis(record, "new"), **_scaled(news)),
        alt.Y("original:Q", title=_axis(record, "original"), **_scaled(originals)),
    )
    looks = {
        "color": alt.Color("label:N", legend=alt.Legend(title=None, orient="bottom"), scale=_range(kinds, COLOURS)),
        "shape": alt.Shape("label:N", scale=_range(kinds, SHAPES)),
    }
    line = sorted((row for row in rows if row["kind"] == "alpha"), key=lambda row: row["settings"]["alpha"])
    line = [row | {"order": at} for at, row in enumerate(line)]
    everything, along = (alt.Chart(alt.Data(values=values)) for values in (rows, line))
    chosen = alt.Chart(alt.Data(values=[row for row in rows if row["chosen"]]))
    layers = [
        alt.Chart(alt.Data(values=[{"original": limit}])).mark_rule(strokeDash=[4, 4], color=FAINT).encode(y=y),
        along.mark_line(strokeWidth=1.5, color=COLOURS[0], opacity=0.6).encode(x=x, y=y, order="order:Q"),
        everything.mark_point(size=55, filled=True, opacity=0.85).encode(x=x, y=y, **looks),
        chosen.mark_point(size=320, shape="circle", strokeWidth=2, color=INK).encode(x=x, y=y),
        *_names(rows, domain(news), domain(originals)),
    ]
    title = alt.Title("dashed: the original score that is just accepted; ring: chosen", anchor="start", offset=12)
    return styled(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title))


def _metric(record: dict[str, Any], task: str) -> str:
    return record["tuned_change"][task]["metric"]


def _axis(record: dict[str, Any], task: str) -> str:
    rows = record["data"][task]["splits"]["validation"]["rows"]
    return f"{task} task: {_metric(record, task)} on validation, N = {rows:,}"


def _scaled(values: list[float]) -> dict[str, Any]:
    import altair as alt

    return {"scale": alt.Scale(domain=domain(values), nice=False), "axis": alt.Axis(values=ticks(values))}


def _range(kinds: list[str], looks: Sequence[str]) -> Any:
    import altair as alt

    return alt.Scale(domain=kinds, range=list(looks[: len(kinds)]))


def _names(rows: list[dict[str, Any]], across: tuple[float, float], up: tuple[float, float]) -> list[Any]:
    """Return text layers with α beside the points of a single α; those at one place share a label."""
    import altair as alt

    def pixels(row: dict[str, Any]) -> tuple[float, float]:
        right = WIDTH * (row["new"] - across[0]) / (across[1] - across[0])
        return right, HEIGHT - HEIGHT * (row["original"] - up[0]) / (up[1] - up[0])

    names: dict[tuple[float, float], list[str]] = {}
    for row in rows:
        if row["kind"] == "alpha":
            names.setdefault(pixels(row), []).append(f"{row['settings']['alpha']:g}")
    marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in map(pixels, rows)]
    texts = [f"α {', '.join(alphas)}" for alphas in names.values()]
    boxes = place([(7 * len(text), 15) for text in texts], list(names), marks, Box(0, 0, WIDTH, HEIGHT))
    layers = []
    for text, at in zip(texts, boxes, strict=True):
        label = alt.Chart(alt.Data(values=[{"name": text}])).mark_text(color=INK)
        middle = {"x": alt.value((at.left + at.right) / 2), "y": alt.value((at.top + at.bottom) / 2)}
        layers.append(label.encode(**middle, text="name:N"))
    return layers


# ---------------------------------------------------------------- the page


def page(record: dict[str, Any], picture: str) -> str:
    """Return the self-contained page of a repair as HTML; `picture` is the SVG text of its chart."""
    results = (_verdict(record), _choice(record), _picture(picture), notes(record["notes"]))
    return document("fft repair", (*results, _everything(record), _settings(record)))


def _verdict(record: dict[str, Any]) -> str:
    if record["verdict"]:
        return box(record)
    text = escape(headline(record))
    return f'<div class="verdict fail"><h2>Nothing better than the base was found</h2><p>{text}.</p></div>'


def _choice(record: dict[str, Any]) -> str:
    texts = [headline(record), tuned_sentence(record)] if record["verdict"] else [tuned_sentence(record)]
    return "<h2>Choice</h2>\n" + "".join(map(paragraph, texts))


def _picture(picture: str) -> str:
    legend = "Candidates on the validation rows, which decided the choice; the verdict is from the test rows."
    return f"<h2>Front</h2>\n<figure>{picture}<figcaption>{legend}</figcaption></figure>"


def _everything(record: dict[str, Any]) -> str:
    note = f"<p class='note'>The new task is not scored for candidates beyond the accepted {_word(record)}.</p>"
    return f"<h2>Tried</h2>\n{table(_validation(record), _marked(record))}\n{note}"


def _settings(record: dict[str, Any]) -> str:
    names = ("base", "tuned", "heads", "fisher", "data", "max_drop", "rows", "seed", "device", "seconds", "versions")
    return f"<h2>Settings</h2>\n{pairs(list(flat({name: record[name] for name in names})))}"


def write(record: dict[str, Any], out: Path) -> None:
    """Write front.svg, front.png and report.html into `out`. Raises: MachineError if they cannot be written."""
    picture = svg(chart(record))
    save(picture, out / "front")
    replace_file(out / "report.html", page(record, picture).encode())
