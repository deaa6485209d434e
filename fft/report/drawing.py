"""The common style of all pictures, and their export to SVG and PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import altair

Chart = TypeVar("Chart", bound="altair.TopLevelMixin")

# Okabe and Ito's colour-blind-safe palette, darkened so that text in these colours is readable on white.
COLOURS = ("#0072B2", "#C44E00", "#00795A", "#A8447F", "#8A6500", "#5B6770", "#6A4690", "#7A4038")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
INK, FAINT, BAND = "#333333", "#767676", "#009E73"
FONT = "Helvetica, Arial, sans-serif"


def ticks(values: Sequence[float], most: int = 8) -> list[float]:
    """Return about `most` round numbers around the values; steps divide 1, so no accuracy above 1 is marked."""
    low, high = min(values), max(values)
    rough = max(high - low, 1e-3) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def domain(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the values, extended to leave room for labels."""
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.05
    return low - room, high + room


def styled(chart: Chart) -> Chart:
    """Return the chart in the common style: grid, unobtrusive axes, letters of 12 to 13 pixels, no background."""
    import altair as alt

    axis = alt.AxisConfig(
        grid=True,
        gridColor="#8888882e",
        domainColor=FAINT,
        tickColor=FAINT,
        labelColor=INK,
        titleColor=INK,
        labelFontSize=12,
        titleFontSize=13,
        titleFontWeight="normal",
        titlePadding=10,
    )
    return chart.configure(  # all at once: each call copies the chart
        font=FONT,
        background="transparent",
        padding=8,
        view=alt.ViewConfig(stroke=None),
        axis=axis,
        legend=alt.LegendConfig(labelColor=INK, titleColor=INK),
        text=alt.MarkConfig(fontSize=12),
        title=alt.TitleConfig(fontSize=12, fontWeight="normal", color=INK),
    )


def svg(chart: altair.TopLevelMixin) -> str:
    """Return the chart as SVG text without a background, for HTML pages."""
    import vl_convert

    return vl_convert.vegalite_to_svg(chart.to_dict())


def save(picture: str, path_stem: str | Path) -> list[Path]:
    """Write SVG text on white as path_stem.svg and path_stem.png (at double resolution), and return the paths.

    Raises: MachineError if they cannot be written.
    """
    import vl_convert

    from fft.disk.files import replace_file

    stem = Path(path_stem)
    vector, pixels = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    root, rest = picture.split(">", 1)
    on_white = f'{root}><rect width="100%" height="100%" fill="white"/>{rest}'
    replace_file(vector, on_white.encode())
    replace_file(pixels, vl_convert.svg_to_png(on_white, scale=2))
    return [vector, pixels]
