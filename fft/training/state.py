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
    """int32 []: steps taken, skipped ones included"""
    theta: Params
    opt_state: optax.OptState
    key: jax.Array
    """the run's key; step i uses fold_in(key, i)"""
    skipped: jax.Array
    """int32 []: steps skipped in all, because loss or gradient was not finite"""
    skipped_in_a_row: jax.Array
    """int32 []"""
    dual: Dual
    """the multiplier of what the method adds; 1 for ever where nothing drives it"""
    average: Params | None
    """of theta over the steps, under a contract"""
    __repr__ = brief

    @property
    def result(self) -> Params:
        """The tree that is scored and kept."""
        return getattr(self, result_field(self.average is not None))


def result_field(watched: bool) -> str:
    """The field of a TrainState that is scored and kept: under a contract the average, else theta."""
    return "average" if watched else "theta"


def init_state(theta: Params, tx: optax.GradientTransformation, key: jax.Array, watched: int = 0) -> TrainState:
    """The state before step 1 of a run whose contract watches so many original tasks; 0 without a contract."""
    zero = jnp.zeros((), jnp.int32)
    average = jax.tree.map(jnp.copy, theta) if watched else None
    dual = first_dual(max(1, watched))
    return TrainState(zero, theta, tx.init(theta), key, zero.copy(), zero.copy(), dual, average)
