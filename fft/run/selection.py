"""Under a contract: select the point of a finished run that becomes its model, on validation rows."""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

from fft.core.naming import ORIGINAL
from fft.core.tree import Params, without_heads
from fft.merging.formulas import interpolate
from fft.merging.furthest import furthest
from fft.stats.records import ContractRecord
from fft.stats.retention import SAME

ALPHAS = tuple(sixteenth / 16 for sixteenth in range(1, 16))
"""interpolation factors from the base (0) to the last step (1) that can be tried, ascending"""


class Point(NamedTuple):
    """A candidate: a step of the run, or a point between the base and its last step."""

    step: int
    alpha: float
    """the interpolation factor: 1 is the step, 0 the base"""
    original: float
    new: float | None
    """None where it is not scored: if a drop exceeds its margin, and for a base with a fresh head"""
    drop: float
    """of the (first) original task's score, + is a loss"""
    within: bool
    """whether every original task's drop is within its margin"""
    drops: dict[str, float]
    """of each original task"""


class Chosen(NamedTuple):
    """The selected point, its parameters, and every point that was tried."""

    point: Point
    params: Params
    tried: list[Point]

    @property
    def met(self) -> bool:
        """Whether a trained point meets the contract; otherwise the point is the base."""
        return self.point.step > 0


def choose(
    base: Params,
    fresh_heads: tuple[str, ...],
    start: dict[str, float],
    trained: dict[int, Callable[[], Params]],
    judge: Callable[[Params, Collection[str]], dict[str, float]],
    signs: dict[str, int],
    margins: dict[str, float],
    alphas: tuple[float, ...] = ALPHAS,
) -> Chosen:
    """Return the point with the best new score among those whose every drop is within its margin.

    Candidates are the steps in `trained`, the last first, and, if the last one loses too much, points that interpolate
    the base and the last step with factors `alphas`. The furthest of those within the margins is searched with few
    scorings (`fft.merging.furthest`), as the loss grows with the factor but for noise. `alphas` is empty if the trained
    tree is not one of the base's own parameters. Only points within the margins are scored on the new task.

    `start` are the base's scores by task ("new", "original", …), `judge(params, tasks)` returns those of a point,
    `signs` are +1 where higher is better, else -1, and `margins` the accepted drop of each original task. If no point
    within the margins beats the base on the new task, the base is returned, with step 0; a base with a fresh head has
    no "new" in `start`, and every point beats it.
    """
    least = signs["new"] * start["new"] if "new" in start else -math.inf
    tried: list[Point] = []
    best: tuple[float, Point, Params] | None = None

    def consider(step: int, alpha: float, params: Params) -> Point:
        nonlocal best
        scores = judge(params, margins)
        drops = {name: signs[name] * (start[name] - scores[name]) for name in margins}
        within = all(drops[name] <= margin + SAME for name, margin in margins.items())
        new = judge(params, ("new",))["new"] if within else None
        point = Point(step, alpha, scores[ORIGINAL], new, drops[ORIGINAL], within, drops)
        tried.append(point)
        if new is not None:
            worth = signs["new"] * new
            if worth > (least if best is None else best[0]):
                best = worth, point, params
        return point

    def loss(point: Point) -> float:
        """Return the worst drop, in units of its margin."""
        return max(point.drops[name] / (margin + SAME) for name, margin in margins.items())

    last = max(trained)
    params = trained[last]()
    last_point = consider(last, 1.0, params)
    if not last_point.within:
        known = without_heads(base, fresh_heads)

        def loss_at(place: int) -> float:
            alpha = alphas[place - 1]
            return loss(consider(last, alpha, interpolate(known, params, alpha)))

        furthest(len(alphas) + 1, loss_at, loss(last_point))  # `consider` records the points it scores
    for step in trained.keys() - {last}:
        consider(step, 1.0, trained[step]())
    if best is None:
        base_point = Point(0, 0.0, start[ORIGINAL], start.get("new"), 0.0, True, dict.fromkeys(margins, 0.0))
        return Chosen(base_point, base, tried)
    return Chosen(best[1], best[2], tried)


def contract_record(
    chosen: Chosen, max_drop: str | list[str] | None, margins: dict[str, float], strength: float
) -> ContractRecord:
    """Return the contract's part of run.json; `max_drop` is as the user wrote it."""
    return ContractRecord(
        max_drop, margins[ORIGINAL], margins, chosen.met, strength, kept=chosen.point, tried=chosen.tried
    )
