"""The state of a training run: all that changes from step to step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fft.core.brief import brief
from fft.core.tree import Params
from fft.training.dual import Dual, first_dual


class TrainState(NamedTuple):
    """All that changes from step to step, and all that a checkpoint needs."""

    step: jax.Array
    """int32 []: steps taken, including skipped ones"""
    theta: Params
    opt_state: optax.OptState
    key: jax.Array
    """the run's key; step i uses fold_in(key, i)"""
    skipped: jax.Array
    """int32 []: steps skipped in all, because loss or gradient was not finite"""
    skipped_in_a_row: jax.Array
    """int32 []: skipped steps since the last one that was not"""
    dual: Dual
    """the multiplier of the method's own terms; it stays 1 without a contract"""
    average: Params | None
    """the running average of theta, under a contract only"""
    __repr__ = brief

    @property
    def result(self) -> Params:
        """The trained tree that is scored and saved as the result."""
        return getattr(self, result_field(self.average is not None))


def result_field(watched: bool) -> str:
    """Return the field of a TrainState that is its result: under a contract the average, else theta."""
    return "average" if watched else "theta"


def init_state(theta: Params, tx: optax.GradientTransformation, key: jax.Array, watched: int = 0) -> TrainState:
    """Return the state before step 1; `watched` is the number of original tasks under a contract, 0 without one."""
    zero = jnp.zeros((), jnp.int32)
    average = jax.tree.map(jnp.copy, theta) if watched else None
    dual = first_dual(max(1, watched))
    return TrainState(zero, theta, tx.init(theta), key, zero.copy(), zero.copy(), dual, average)
