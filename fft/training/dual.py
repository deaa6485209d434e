"""The contract inside the step: a dual variable holds the original task's drop at its margin.

Training lowers  L_new + m · R,  R everything the method adds, subject to  drop <= margin.  The multiplier m is driven
by the drop on held-out original rows, a few in every step: log m rises while the drop is beyond the margin and falls
while it is within, by so much as the rows seen make it certain. A method that adds nothing has its updates divided by
m instead, m >= 1.

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
"""held-out original rows that a step looks at"""
MEMORY = 1 / 8
"""the share of the run that the running drop remembers, about"""
REACH = 1e3
"""the factor by which m can move over the run"""
CERTAIN = 3.0
"""standard errors by which the running drop is off the margin where m moves as fast as it can"""
LEAST, MOST = 1e-3, 1e6


class Dual(NamedTuple):
    """The multiplier on its way; a part of the TrainState."""

    log_strength: jax.Array
    """log m, float32 []"""
    drop: jax.Array
    """Σ of the discounted drops of rows, float32 [], or [K] of several original tasks"""
    square: jax.Array
    """Σ of their discounted squares, likewise"""
    weight: jax.Array
    """Σ of their discounts, likewise"""


class Seen(NamedTuple):
    """What a step saw of held-out rows: Σ over them, float32 [], or [K] of several original tasks."""

    drop: jax.Array
    """of how much less credit a row has than in the base; one that is not finite counts as 1, all of it"""
    square: jax.Array
    """of its square"""
    weight: jax.Array
    """of 1"""


@dataclass(frozen=True)
class Watch:
    """How a step watches the original tasks: with `task` on held-out rows, beside what the base was worth on each."""

    task: Task
    before: jax.Array
    """the base's credit of every held-out row, float32 [N]"""
    margin: float | tuple[float, ...]
    """the drop that is accepted, in units of the score; of several tasks one each"""
    scale: float
    """what the credit is measured in (Task.scale)"""
    steps: int
    """of the run"""
    scores: tuple[float, ...] = ()
    """of the base on the held-out rows, of each task"""

    def look(self, outputs: Outputs, batch: Batch, before: jax.Array) -> Seen:
        """How much less credit rows have than in the base, where it is `before` [B]."""
        drop = before - self.task.credit(self.task.score(outputs, batch), jnp.asarray(batch.targets), self.scale)
        drop = jnp.where(jnp.isfinite(drop), drop, 1.0)
        return Seen(*(self.task.summed(values, batch) for values in (drop, drop**2, jnp.ones_like(drop))))

    def advance(self, dual: Dual, seen: Seen) -> Dual:
        """The dual variable after a step.

        log m += rate · clip((d − margin) / (CERTAIN · se), −1, 1), where d is the running mean of the drops, se its
        standard error √((mean square + 1 / n) / n) over the n rows that it remembers, and the rates of all steps make
        log REACH. Of several tasks the one that is worst off drives.
        """
        keep = 1 - 1 / max(1.0, MEMORY * self.steps)
        total, square, n = (keep * old + more for old, more in zip(dual[1:], seen, strict=True))
        # The one row more keeps rows that have not changed at all from being certain.
        error = jnp.sqrt((square / n + 1 / n) / n)
        off = jnp.max(jnp.clip((total / n - jnp.asarray(self.margin)) / (CERTAIN * error), -1.0, 1.0))
        log = dual.log_strength + math.log(REACH) / self.steps * off
        return Dual(jnp.clip(log, math.log(LEAST), math.log(MOST)), total, square, n)


def first_dual(originals: int = 1) -> Dual:
    """m = 1, and no drop seen of so many original tasks."""
    return Dual(jnp.zeros(()), *(jnp.zeros(originals) if originals > 1 else jnp.zeros(()) for _ in Seen._fields))
