"""The contract inside the train step: a Lagrange multiplier keeps the original task's drop at its margin.

Training minimises  L_new + m · R,  where R is everything the method adds, subject to  drop <= margin.  The multiplier m
follows the drop on held-out original rows, of which every step reads a few: log m rises while the drop exceeds the
margin and falls while it does not, the faster the more certain the rows make it. For a method that adds no terms, the
updates are divided by max(m, 1) instead.

References: Bertsekas 1999, *Nonlinear Programming*, section 6 (dual ascent); Stooke et al. 2020, arXiv 2007.03964
(why the integral alone swings, and what a proportional part does).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Outputs
from fft.tasks import Task

PROBED = 16
"""held-out rows of each original task that a step reads"""
MEMORY = 1 / 8
"""the share of the run's steps that the running mean of the drop covers, about"""
REACH = 1e3
"""the factor by which m can change at most over the run"""
CERTAIN = 3.0
"""distance of the running drop from the margin, in standard errors, at which m changes at its full rate"""
LEAST, MOST = 1e-3, 1e6
"""bounds of m"""


class Dual(NamedTuple):
    """The state of the multiplier; a part of the TrainState. Drops are per held-out row, see Seen."""

    log_strength: jax.Array
    """log m, float32 []"""
    drop: jax.Array
    """discounted Σ of the drops, float32 [], or [K] for K > 1 original tasks"""
    square: jax.Array
    """discounted Σ of their squares, same shape"""
    weight: jax.Array
    """discounted Σ of the weights, same shape"""


class Seen(NamedTuple):
    """Weighted sums over the held-out rows of a step, float32 [], or [K] for K > 1 original tasks."""

    drop: jax.Array
    """Σ of the drops: the base's credit of a row less the current one; a drop that is not finite counts as 1"""
    square: jax.Array
    """Σ of their squares"""
    weight: jax.Array
    """Σ of the weights"""


@dataclass(frozen=True)
class Watch:
    """How a step measures the original tasks' drop: the task, the base's credit of the held-out rows, the margin."""

    task: Task
    before: jax.Array
    """the base's credit (Task.credit) of every held-out row, float32 [N]"""
    margin: float | tuple[float, ...]
    """the accepted drop, in units of the score; a tuple for several tasks"""
    scale: float | tuple[float, ...]
    """the unit of the credit (Task.scale); a tuple for several tasks with units of their own"""
    steps: int
    """of the run"""
    scores: tuple[float, ...] = ()
    """the base's score of each task on the held-out rows"""

    def look(self, outputs: Outputs, batch: Batch, before: jax.Array) -> Seen:
        """Return the sums of a batch's drops; `before` [B] is the base's credit of its rows."""
        scale = jnp.asarray(self.scale)[batch.task] if isinstance(self.scale, tuple) else self.scale
        drop = before - self.task.credit(self.task.score(outputs, batch), jnp.asarray(batch.targets), scale)
        drop = jnp.where(jnp.isfinite(drop), drop, 1.0)
        return Seen(*(self.task.summed(values, batch) for values in (drop, drop**2, jnp.ones_like(drop))))

    def advance(self, dual: Dual, seen: Seen) -> Dual:
        """Return the state of the multiplier after a step.

        log m += rate · clip((d − margin) / (CERTAIN · se), −1, 1), where d is the running mean of the drops, se its
        standard error √((mean square + u² / n) / n) over the n rows that it covers, u = Task.unit, and
        rate = log(REACH) / steps. With several tasks the largest of the clipped terms is taken.
        """
        discount = 1 - 1 / max(1.0, MEMORY * self.steps)
        total, square, n = (discount * old + more for old, more in zip(dual[1:], seen, strict=True))
        # u² / n stands for one more row, with drop u: without it the error of rows that never changed would be 0.
        error = jnp.sqrt((square / n + self.task.unit**2 / n) / n)
        off = jnp.max(jnp.clip((total / n - jnp.asarray(self.margin)) / (CERTAIN * error), -1.0, 1.0))
        log = dual.log_strength + math.log(REACH) / self.steps * off
        return Dual(jnp.clip(log, math.log(LEAST), math.log(MOST)), total, square, n)


def first_dual(originals: int = 1) -> Dual:
    """Return the state before step 1, with m = 1, for a number of original tasks."""
    return Dual(jnp.zeros(()), *(jnp.zeros(originals) if originals > 1 else jnp.zeros(()) for _ in Seen._fields))
