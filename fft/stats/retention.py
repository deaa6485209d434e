"""The contract with the original task: how much of it may be lost, what was lost, and what follows.

Pure functions on plain data. Terms: the original task is what the base model could do; its drop (forgetting) is the
base's score less the score now, in units of the metric and signed so that + is a loss, for rmse as well; retention is
the score after over the score before. A history is the list of scorings on the fixed validation probe, the first of
them the base's: [{"step", "original", "new", "combined", ...}, ...]. A score that is not finite is nan, -inf or, read
back from JSON, None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fft.core.naming import ORIGINAL
from fft.stats.intervals import LEVEL, Change, unseen_rate
from fft.stats.metrics import Metric

EXIT_CODES = {"pass": 0, "fail": 1, "undecided": 4}
SAME = 1e-9  # scores closer than this are equal: a difference of rounding, not of examples


class Verdict(NamedTuple):
    """Was the original task kept? outcome is 'pass', 'fail' or 'undecided'; drop has the interval [drop_low,
    drop_high]; needed is how many test examples would decide, None where it is decided or no number would. reason says
    why these examples cannot decide at all, None where the drop was measured."""

    outcome: str
    tolerance: float
    drop: float
    drop_low: float
    drop_high: float
    needed: int | None
    reason: str | None = None


def combined_score(
    new: float, original: float | None, baseline_original: float | None, weight: float, tolerance: float
) -> float:
    """new - weight * max(0, drop - tolerance), drop = baseline_original - original: what training tries to raise.

    All scores are signed so that higher is better (sign * score for rmse). original None: there is no original task,
    and the new score is the combined one. A score that is not finite gives -inf, so that it is never the best.

    >>> round(combined_score(new=0.90, original=0.80, baseline_original=0.85, weight=1.0, tolerance=0.01), 6)
    0.86
    """
    loss = 0.0
    if original is not None and baseline_original is not None:
        drop = baseline_original - original
        loss = weight * (drop - tolerance) if not drop <= tolerance else 0.0  # not <=, so that nan gets through
    combined = new - loss
    return combined if math.isfinite(combined) else -math.inf


def below_all(metric: Metric) -> float:
    """A score, signed so that higher is better, that is below every one that the metric can take."""
    return min(metric.sign * bound for bound in metric.bounds) - SAME


def starts_fresh(run: dict[str, Any]) -> bool:
    """Whether the new task of a run (run.json data) began with a head of noise, which had no score before."""
    return run["experiment"].get("head") == "new"


def crossover(history: Sequence[dict[str, Any]], tolerance: float, sign: int = 1, name: str = ORIGINAL) -> int | None:
    """The step of the first scoring at which an original task's drop on the probe exceeds the tolerance, or None.

    From there on what is gained on the new task costs more of the original than was allowed. It is the first
    crossing and not the last: a later recovery is worth seeing in the history, but this much has once been lost. The
    probe is the same few hundred examples each time, so its changes are steadier than its scores, yet a crossing by
    an example or two is noise; the verdict is taken on the test split. sign is the original metric's (-1 for rmse).
    A score that is not finite counts as a crossing.
    """
    if not history or history[0][name] is None:
        return None
    base = history[0][name]
    for entry in history[1:]:
        lost = entry[name] is None or not sign * (base - entry[name]) <= tolerance + SAME
        if lost:
            return entry["step"]
    return None


def best(history: Sequence[dict[str, Any]]) -> int:
    """The index of the highest combined score, the earliest of equals; the base (index 0) takes part.

    A combined score of nan or None is worth -inf. ValueError for an empty history.
    """
    if not history:
        raise ValueError("expected at least one scoring in the history")
    values = [entry["combined"] for entry in history]
    values = [-math.inf if value is None or math.isnan(value) else value for value in values]
    return values.index(max(values))


def should_stop(history: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` scorings all failed to beat the best combined score before them; 0 never stops."""
    return patience > 0 and len(history) - 1 - best(history) >= patience


def verdict(change: Change, tolerance: float) -> Verdict:
    """Pass where the drop's whole interval is within the tolerance, fail where it is wholly beyond, else undecided.

    pass: drop_high <= tolerance; fail: drop_low > tolerance. A model whose score on the original task is no longer
    a finite number, while the base's was, has lost it: fail. Nothing follows from a score that is not defined on these
    examples: undecided, with the reason.

    >>> verdict(Change("accuracy", 0.90, 0.895, -0.005, -0.015, 0.005, 1000), tolerance=0.01)[::5]
    ('undecided', 4000)
    """
    drop, drop_low, drop_high = (0.0 - value for value in (change.change, change.high, change.low))
    if change.undefined:
        return Verdict("undecided", tolerance, drop, drop_low, drop_high, None, change.undefined)
    if drop_high <= tolerance + SAME:
        outcome = "pass"
    elif drop_low > tolerance + SAME or (math.isfinite(change.before) and not math.isfinite(change.after)):
        outcome = "fail"
    else:
        outcome = "undecided"
    needed = examples_needed(change, tolerance) if outcome == "undecided" else None
    return Verdict(outcome, tolerance, drop, drop_low, drop_high, needed)


def is_scored(change: dict[str, Any] | None) -> bool:
    """Whether the change of a task in a record is of scores that are numbers, and defined on the task's rows."""
    return change is not None and change["after"] is not None and not change.get("undefined")


def overall(outcomes: Sequence[str]) -> str:
    """The outcome of several original tasks together: fail where one fails, else undecided where one is, else pass.

    All of them must pass, each at its own level, so that the chance of a wrong pass is not greater than that of one
    alone and needs no correction (the intersection-union test; Berger 1982).
    """
    return max(outcomes, key=("pass", "undecided", "fail").index)


def examples_needed(change: Change, tolerance: float) -> int | None:
    """About how many examples would put the interval on one side of the tolerance, if the drop stays what it is.

    n (arm / gap)^2: gap is how far the drop is from the tolerance, arm how far the interval reaches from the drop
    towards it, which shrinks as 1 / sqrt(n). Where no prediction changed the arm is K unseen_rate(n) of
    `intervals.unseen`, and the m with K unseen_rate(m) = gap is log .025 / log(1 - gap / K). None where the drop
    sits on the tolerance, or a number is not finite: then no number of examples decides.
    """
    gap = tolerance + change.change
    arm = change.change - change.low if gap > 0 else change.high - change.change
    if not (math.isfinite(gap) and math.isfinite(arm)) or abs(gap) < SAME:
        return None
    if change.changed == 0 and 0 < gap < arm:
        share = gap * unseen_rate(change.n) / arm
        return math.ceil(math.log((1 - LEVEL) / 2) / math.log(1 - share) - SAME)
    return math.ceil(change.n * (arm / gap) ** 2 - SAME)
