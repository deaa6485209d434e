"""The picture of a run: the scores of all tasks on the validation probe against the training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fft.core.naming import original_names
from fft.report.drawing import BAND, COLOURS, FAINT, INK, domain, styled, ticks
from fft.report.tables import verdicts
from fft.report.words import loss_word
from fft.stats.metrics import METRICS
from fft.stats.retention import crossover

if TYPE_CHECKING:
    import altair

WIDTH, PANEL = 560, 200  # a panel's data area, in pixels
NEAR = 130  # names of marks closer than this many pixels are put on opposite sides


def history_chart(run: dict[str, Any]) -> altair.VConcatChart:
    """Return a chart of every task's scores on the validation probe against the step.

    The upper panels are the original tasks, with the base's score, the accepted drop as a band, and the crossover; the
    lowest is the new task. A dotted line marks the best step, or the selected step under a contract, where a diamond
    shows the drop by which it was selected.
    """
    import altair as alt

    seen = {task for entry in run["history"] for task, value in entry.items() if value is not None}
    tasks = [task for task in (*original_names(run), "new") if run[task] and task in seen]
    panels = [_panel(run, task, first=task == tasks[0], last=task == tasks[-1]) for task in tasks]
    return styled(alt.vconcat(*panels, spacing=14))


def _panel(run: dict[str, Any], task: str, first: bool, last: bool) -> altair.LayerChart | altair.FacetChart:
    """Return the panel of one task."""
    import altair as alt

    colour = COLOURS[1] if task == "new" else COLOURS[0]
    rows = [{"step": entry["step"], "score": entry[task]} for entry in run["history"] if entry[task] is not None]
    steps = [0, max(entry["step"] for entry in run["history"])]
    metric = METRICS[run[task]["metric"]]
    judged = _judged(run, task, rows[0]["score"], metric.sign)
    bounds = [row["score"] for row in (*rows, *judged)]
    tolerance = verdicts(run).get(task, {}).get("tolerance")
    if tolerance is not None:
        bounds.append(rows[0]["score"] - metric.sign * tolerance)
    x = alt.X(
        "step:Q",
        title="step" if last else None,
        axis=alt.Axis(labels=last, tickMinStep=1, tickCount=8),
        scale=alt.Scale(domain=steps, nice=False),
    )
    y = alt.Y(
        "score:Q",
        title=[f"{task} task", f"{metric.name}, validation probe"],
        scale=alt.Scale(domain=domain(bounds), nice=False),
        axis=alt.Axis(values=ticks(bounds)),
    )
    data = alt.Chart(alt.Data(values=rows))
    layers = [] if tolerance is None else _tolerance_band(rows[0]["score"], metric.sign, tolerance, steps, x, y)
    crossed = None if tolerance is None else crossover(run["history"], tolerance, metric.sign, task)
    layers += _step_marks(run, crossed, first, x)
    layers += [
        data.mark_line(strokeWidth=2.5, color=colour).encode(x=x, y=y),
        data.mark_point(size=45, filled=True, opacity=1, color=colour).encode(x=x, y=y),
    ]
    if judged:
        diamond = alt.Chart(alt.Data(values=judged)).mark_point(shape="diamond", size=110, color=INK)
        layers.append(diamond.encode(x=x, y=y))
    panel = alt.layer(*layers).properties(width=WIDTH, height=PANEL)
    if tolerance is None:
        return panel
    word = loss_word([metric.name])
    legend = [f"dashed: the base's score; shaded: the accepted {word} of {tolerance:.3g}"]
    if judged:
        legend.append(f"diamond: the {word} of the selected model on the validation rows by which it was selected")
    return panel.properties(title=alt.Title(legend, anchor="start", offset=20))


def _judged(run: dict[str, Any], task: str, base: float, sign: int) -> list[dict[str, float]]:
    """Return the point of the model selected under a contract: the base's probe score less its drop."""
    contract = run["contract"]
    if contract is None or task not in contract["margins"]:
        return []
    selected = contract["kept"]
    return [{"step": selected["step"], "score": base - sign * selected["drops"][task]}]


def _tolerance_band(base: float, sign: int, tolerance: float, steps: Sequence[int], x: altair.X, y: altair.Y) -> list:
    """Return the base's score as a dashed line, and the band of the accepted drop."""
    import altair as alt

    edge = base - sign * tolerance
    chart = alt.Chart(alt.Data(values=[{"step": step, "score": base, "edge": edge} for step in steps]))
    return [
        chart.mark_area(color=BAND, opacity=0.18).encode(x=x, y=y, y2="edge:Q"),
        chart.mark_line(color=FAINT, strokeDash=[4, 4], strokeWidth=1).encode(x=x, y=y),
    ]


def _marked(run: dict[str, Any]) -> tuple[int, str]:
    """Return the marked step and its name: the best step, or the selected one under a contract."""
    if run["contract"] is None:
        return run["best_step"], f"best step {run['best_step']}"
    selected = run["contract"]["kept"]
    if selected["step"] and selected["alpha"] < 1:
        return selected["step"], f"kept: {selected['alpha']:g} of the way to it, not drawn"
    return selected["step"], f"kept: step {selected['step']}"


def _step_marks(run: dict[str, Any], crossed: int | None, first: bool, x: altair.X) -> list:
    """Return vertical lines at the marked step and at the task's crossover, if any.

    The first panel names the marked step, each panel its own crossover. Two names that would overlap are put on
    opposite sides of their lines.
    """
    import altair as alt

    marks = [(*_marked(run), INK, [1, 3]), (crossed, f"crossover {crossed}", COLOURS[3], [6, 3])]
    marks = sorted((mark for mark in marks if mark[0] is not None), key=lambda mark: mark[0])
    pixels = [WIDTH * mark[0] / max(1, run["history"][-1]["step"]) for mark in marks]
    near = len(marks) == 2 and pixels[1] - pixels[0] < NEAR
    layers = []
    for number, (step, name, colour, dash) in enumerate(marks):
        data = alt.Chart(alt.Data(values=[{"step": step, "name": name}]))
        layers.append(data.mark_rule(color=colour, strokeDash=dash, strokeWidth=1.5).encode(x=x))
        if first or colour != INK:
            before = near and number == 0
            text = data.mark_text(align="right" if before else "left", dx=-3 if before else 3, color=colour)
            layers.append(text.encode(x=x, y=alt.value(-8), text="name:N"))
    return layers
