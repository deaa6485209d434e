"""Under a contract: which point of a finished run is kept, by validation rows."""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

from fft.core.naming import ORIGINAL
from fft.core.tree import Params, without_heads
from fft.merging.formulas import interpolate
from fft.merging.furthest import furthest
from fft.stats.records import ContractRecord
from fft.stats.retention import SAME

WAY = tuple(sixteenth / 16 for sixteenth in range(1, 16))
"""how far from the base to the last step the points are that can be tried, the nearest to the base first"""


class Point(NamedTuple):
    """A candidate: a step of the run, or a point on the way from the base to its last step."""

    step: int
    alpha: float
    """1 is what was trained, 0 the base"""
    original: float
    new: float | None
    """None where it is not scored: where the contract is broken, and of a base with a fresh head"""
    drop: float
    """of the original score, + is a loss; of several original tasks the first"""
    within: bool
    """the contract, with every original task"""
    drops: dict[str, float]
    """of each original task"""


class Chosen(NamedTuple):
    """The point that is kept and its parameters; every point that was tried."""

    point: Point
    params: Params
    tried: list[Point]

    @property
    def met(self) -> bool:
        """Whether a trained point keeps the contract; otherwise the point is the base."""
        return self.point.step > 0


def choose(
    base: Params,
    fresh_heads: tuple[str, ...],
    start: dict[str, float],
    trained: dict[int, Callable[[], Params]],
    judge: Callable[[Params, Collection[str]], dict[str, float]],
    signs: dict[str, int],
    margins: dict[str, float],
    way: tuple[float, ...] = WAY,
) -> Chosen:
    """The best new score among points whose every drop is within its margin: the steps in `trained`, the last step
    first, and where that one loses too much the furthest point on the `way` from the base that does not.

    That point is looked for with few questions (`fft.merging.furthest`), as what is lost grows with the way, but for
    noise; on the new task only points within are scored. `way` is empty where a tree has more than values of the base's
    own parameters. `start` are the base's scores of the tasks, of "new", "original", …, `judge(params, tasks)` gives
    those of a point, `signs` the sign by which each is better, `margins` what each original task may lose. Where no
    point within the margins is better than the base on the new task, the base is kept, with step 0; a base with a fresh
    head has no "new" in `start`, and any is better.
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
        """The worst drop, in units of its margin."""
        return max(point.drops[name] / (margin + SAME) for name, margin in margins.items())

    last = max(trained)
    params = trained[last]()
    whole = consider(last, 1.0, params)
    if not whole.within:
        known = without_heads(base, fresh_heads)

        def loss_at(place: int) -> float:
            alpha = way[place - 1]
            return loss(consider(last, alpha, interpolate(known, params, alpha)))

        furthest(len(way) + 1, loss_at, loss(whole))  # what it finds, `consider` has seen
    for step in trained.keys() - {last}:
        consider(step, 1.0, trained[step]())
    if best is None:
        kept = Point(0, 0.0, start[ORIGINAL], start.get("new"), 0.0, True, dict.fromkeys(margins, 0.0))
        return Chosen(kept, base, tried)
    return Chosen(best[1], best[2], tried)


def contract_record(
    chosen: Chosen, max_drop: str | list[str] | None, margins: dict[str, float], strength: float
) -> ContractRecord:
    """What run.json says of the contract; `max_drop` is how it was written."""
    return ContractRecord(
        max_drop, margins[ORIGINAL], margins, chosen.met, strength, kept=chosen.point, tried=chosen.tried
    )
