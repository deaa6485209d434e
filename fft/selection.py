"""Under a contract: which point of a finished run is kept, by validation rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fft.merging import interpolate
from fft.paths import Params, without_heads
from fft.retention import SAME

WAY = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)
"""how far from the base to the last step the points are that are tried, the furthest first"""


class Point(NamedTuple):
    """A candidate: a step of the run, or a point on the way from the base to its last step."""

    step: int
    alpha: float
    """1 is what was trained, 0 the base"""
    original: float
    new: float
    drop: float
    """of the original score, + is a loss"""
    within: bool
    """the contract"""


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
    trained: dict[int, Callable[[], Params]],
    judge: Callable[[Params], dict[str, float]],
    signs: dict[str, int],
    margin: float,
    way: tuple[float, ...] = WAY,
) -> Chosen:
    """The best new score among points whose drop is within `margin`: the steps in `trained`, the last step first, and
    where that one loses too much the first point on the `way` back to the base that does not.

    `way` is empty where a tree has more than values of the base's own parameters. `judge(params)` gives {"original", "new"}, `signs` the sign by which each
    is better. Where no point within the margin is better than the base on the new task, the base is kept, with step 0.
    """
    start = judge(base)
    tried: list[Point] = []
    best: tuple[float, Point, Params] | None = None

    def consider(step: int, alpha: float, params: Params) -> bool:
        nonlocal best
        scores = judge(params)
        drop = signs["original"] * (start["original"] - scores["original"])
        point = Point(step, alpha, scores["original"], scores["new"], drop, drop <= margin + SAME)
        tried.append(point)
        worth = signs["new"] * scores["new"]
        if point.within and worth > (signs["new"] * start["new"] if best is None else best[0]):
            best = worth, point, params
        return point.within

    last = max(trained)
    params = trained[last]()
    if not consider(last, 1.0, params):
        known = without_heads(base, fresh_heads)
        for alpha in way:
            if consider(last, alpha, interpolate(known, params, alpha)):
                break
    for step in trained.keys() - {last}:
        consider(step, 1.0, trained[step]())
    if best is None:
        return Chosen(Point(0, 0.0, start["original"], start["new"], 0.0, True), base, tried)
    return Chosen(best[1], best[2], tried)


def told(chosen: Chosen, max_drop: str, margin: float, strength: float) -> dict[str, Any]:
    """What run.json says of the contract."""
    return {
        "max_drop": max_drop,
        "margin": margin,
        "met": chosen.met,
        "strength": strength,
        "kept": chosen.point._asdict(),
        "tried": [point._asdict() for point in chosen.tried],
    }


def sentence(contract: dict[str, Any]) -> str:
    """What a run says about its contract."""
    kept = contract["kept"]
    if not contract["met"]:
        return (
            f"the contract is not met: no point that gains on the new task keeps the original drop within "
            f"{contract['margin']:.3g} on validation rows; what was trained loses {contract['tried'][0]['drop']:.3g}, "
            f"{contract['tried'][0]['drop'] - contract['margin']:.3g} too much. The base is kept"
        )
    way = f"step {kept['step']}" + ("" if kept["alpha"] == 1 else f", {kept['alpha']:g} of the way from the base")
    return (
        f"kept under the contract: {way}, a drop of {kept['drop']:+.4f} on validation rows where "
        f"{contract['margin']:.3g} is allowed; the multiplier ended at {contract['strength']:.3g}"
    )
