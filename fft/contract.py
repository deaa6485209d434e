"""The contract inside the step: a dual variable holds the original task's drop at its margin.

Training lowers  L_new + m · R,  R everything the method adds, subject to  drop <= margin.  The multiplier m is driven
by the drop on held-out original rows, a few in every step: log m rises while the drop is beyond the margin and falls
while it is within. A method that adds nothing has its updates divided by m instead, m >= 1.

References: Bertsekas 1999, *Nonlinear Programming*, section 6 (dual ascent); Stooke et al. 2020, arXiv 2007.03964
(why the integral alone swings, and what a proportional part does).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fft.methods import Method
from fft.methods.base import combines

PROBED = 32
"""held-out original rows that a step looks at"""
MEMORY = 1 / 8
"""the share of the run that the running drop remembers, about"""
REACH = 1e4
"""the factor by which m can move over the run"""
NOISE = 0.02
"""about the standard error of the running drop; beyond the margin by this much is not yet beyond it by far"""
LEAST, MOST = 1e-3, 1e6


class Dual(NamedTuple):
    """The multiplier on its way; a part of the TrainState."""

    log_strength: jax.Array
    """log m, float32 []"""
    drop: jax.Array
    """Σ of the discounted drops, float32 [], or [K] of several original tasks"""
    weight: jax.Array
    """Σ of their discounts, float32 []"""


@dataclass(frozen=True)
class Watch:
    """How a step watches the original tasks: with `task` on rows that hold "before" [B], the base's credit of each."""

    task: Any
    margin: float | tuple[float, ...]
    """the drop that is accepted, in units of the score; of several tasks one each"""
    spread: float
    """the variance of the held-out labels; classification does without"""
    steps: int
    """of the run"""

    def drop(self, outputs: dict, batch: dict) -> jax.Array:
        """The mean over a batch of how much less credit a row has than in the base; [], or [K] task by task."""
        now = self.task.credit(self.task.logits(outputs, batch), batch["label"], self.spread)
        rows = jnp.ones_like(now)
        return self.task.summed(batch["before"] - now, batch) / self.task.summed(rows, batch)

    def advance(self, dual: Dual, drop: jax.Array) -> Dual:
        """The dual variable after a step that saw `drop`.

        log m += rate · clip((running drop − margin) / (margin + NOISE), −1, 1), where the rates of all steps make
        log REACH. A drop that is not finite counts as all of the score. Of several tasks the one that is worst off
        drives.
        """
        seen = jnp.where(jnp.isfinite(drop), drop, 1.0)
        keep = 1 - 1 / max(1.0, MEMORY * self.steps)
        total, weight = keep * dual.drop + seen, keep * dual.weight + 1.0
        margin = jnp.asarray(self.margin)
        error = jnp.max(jnp.clip((total / weight - margin) / (margin + NOISE), -1.0, 1.0))
        rate = math.log(REACH) / self.steps
        return Dual(jnp.clip(dual.log_strength + rate * error, math.log(LEAST), math.log(MOST)), total, weight)


def first_dual(originals: int = 1) -> Dual:
    """m = 1, and no drop seen of so many original tasks."""
    zero = jnp.zeros(())
    return Dual(zero, jnp.zeros(originals) if originals > 1 else zero.copy(), zero.copy())


def is_held(method: Method) -> bool:
    """Whether a method adds something to the objective, whose strength m can multiply.

    The terms of a method that combines gradients are not added: only their direction counts.
    """
    return any(
        type(m).penalty is not Method.penalty or (type(m).loss is not Method.loss and not combines(m))
        for m in method.members
    )
