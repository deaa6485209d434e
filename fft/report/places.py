"""Shows the Fisher information by layer and role, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fft.report.drawing import save, styled, svg
from fft.report.tables import Column, rich_table

if TYPE_CHECKING:
    from rich.table import Table

CELL = 34  # height of a cell in pixels; the width is twice that
MOST = 4  # operations named per layer
ORDER = ("word", "position", "type", "norm", "query", "key", "value", "out")
ORDER += ("attention_norm", "up", "down", "mlp_norm", "pooler")
PLACES = (
    Column("layer", lambda row: row[0], number=False),
    Column("of the trace", lambda row: row[1]),
    Column("mean per parameter", lambda row: row[2]),
    Column("most of it in", lambda row: row[3], number=False),
)


def places_table(places: Sequence[dict[str, Any]]) -> Table:
    """Return a table of each layer's share of the trace, mean per parameter, and operations with the most of it."""
    rows = []
    for layer in dict.fromkeys(place["layer"] for place in places):
        mine = [place for place in places if place["layer"] == layer]
        share, size = (sum(place[name] for place in mine) for name in ("share", "parameters"))
        mean = sum(place["mean"] * place["parameters"] for place in mine) / size
        most = sorted(mine, key=lambda place: -place["share"])[:MOST]
        named = ", ".join(f"{place['role']} {100 * place['share']:.2g} %" for place in most)
        rows.append((layer, f"{100 * share:.3g} %", f"{mean:.2e}", named))
    return rich_table(PLACES, rows)


def places_chart(places: Sequence[dict[str, Any]], title: str) -> Any:
    """Return a heat map of the mean information per parameter by layer and role, log scale, with its share as text."""
    import altair as alt

    layers, roles = (list(dict.fromkeys(place[name] for place in places)) for name in ("layer", "role"))
    roles.sort(key=lambda role: ORDER.index(role) if role in ORDER else len(ORDER))
    informed = [place for place in places if place["mean"] > 0]
    rows = [{**place, "log": math.log10(place["mean"]), "text": f"{100 * place['share']:.2g} %"} for place in informed]
    middle = sum(row["log"] for row in rows) / max(len(rows), 1)
    x = alt.X(
        "role:N",
        sort=roles,
        title="operation (number: its share of the trace)",
        axis=alt.Axis(labelAngle=-35, grid=False),
    )
    y = alt.Y("layer:N", sort=layers[::-1], title="layer", axis=alt.Axis(grid=False))
    chart = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
    legend = alt.Legend(title="log10 of the mean per parameter", orient="bottom", gradientLength=260, titleLimit=400)
    squares = chart.mark_rect().encode(
        color=alt.Color("log:Q", scale=alt.Scale(scheme="viridis"), legend=legend),
    )
    shares = chart.mark_text(fontSize=11).encode(
        text="text:N", color=alt.condition(f"datum.log > {middle}", alt.value("black"), alt.value("white"))
    )
    size = {"width": 2 * CELL * len(roles), "height": CELL * len(layers)}
    return styled((squares + shares).properties(title=title, **size))


def draw_places(places: Sequence[dict[str, Any]], title: str, path_stem: str | Path) -> list[Path]:
    """Write `places_chart` as path_stem.svg and path_stem.png and return the two paths."""
    return save(svg(places_chart(places, title)), path_stem)
