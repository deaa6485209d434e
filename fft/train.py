"""The train step: pure, compiled, donated."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fft.methods import Method
from fft.paths import Params, flatten, map_leaves


class TrainState(NamedTuple):
    """All that changes from step to step, and all that a checkpoint needs."""

    step: jax.Array
    """int32 []: steps taken, skipped ones included"""
    theta: Params
    opt_state: Any
    key: jax.Array
    """the run's key; step i uses fold_in(key, i)"""
    skipped: jax.Array
    """int32 []: steps skipped in all, because loss or gradient was not finite"""
    skipped_in_a_row: jax.Array
    """int32 []"""


def init_state(theta: Params, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before step 1."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, theta, tx.init(theta), key, zero.copy(), zero.copy())


def make_train_step(
    model: Any, task: Any, method: Method, tx: optax.GradientTransformation, multiplier: dict[str, float]
) -> Callable:
    """The `step(state, base, aux, batch) -> (state, metrics)` of a method on a task; `state` is donated.

    `batch` holds {"new": arrays [A, B, ...]}: A micro-batches whose gradients are accumulated. The objective is

        Σ nll / Σ weight over all A·B rows  +  penalty(merged parameters)

    A step whose loss or gradient norm is not finite changes nothing but the counters. `metrics`: loss (without the
    penalty), penalty, grad_norm (over trained leaves, before the clip), skipped_in_a_row; scalars.

    Two compiled programs, because only the first depends on the padded length T: the gradient of the batch, compiled
    once a length, and penalty and update, compiled once.
    """
    gradient, update = _make_gradient(model, task, method, multiplier), _make_update(method, tx)

    def step(state, base, aux, batch):
        return update(state, *gradient(state.theta, base, batch["new"], state.key, state.step), base, aux)

    return step


def _make_gradient(model, task, method, multiplier):
    def summed_loss(theta, base, micro, key):
        inject_key, apply_key = jax.random.split(key)
        outputs = model.apply(method.inject(base, theta, inject_key), micro, apply_key)
        nll, weight = task.loss(outputs, micro)
        return jnp.sum(nll), jnp.sum(weight)

    @jax.jit
    def gradient(theta, base, batch, key, step):
        """Over one step's micro-batches: Σ nll, Σ weight, and the trained leaves' gradients of Σ nll by path."""
        key = jax.random.fold_in(key, step)
        slope = jax.value_and_grad(summed_loss, has_aux=True)
        micros = batch["label"].shape[0]
        if micros == 1:
            (loss, weight), grads = slope(theta, base, jax.tree.map(lambda x: x[0], batch), key)
        else:

            def add(total, micro_and_index):
                micro, index = micro_and_index
                return jax.tree.map(jnp.add, total, slope(theta, base, micro, jax.random.fold_in(key, index))), None

            zeros = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, theta))
            ((loss, weight), grads), _ = jax.lax.scan(add, zeros, (batch, jnp.arange(micros)))
        return loss, weight, {path: g for path, g in flatten(grads).items() if multiplier[path] != 0.0}

    return gradient


def _make_update(method, tx):
    def penalty_of(theta, base, aux):
        return jnp.asarray(method.penalty(base, method.merge(base, theta), aux), jnp.float32)

    @partial(jax.jit, donate_argnums=0)
    def update(state, loss, weight, grads, base, aux):
        """The state after one step on what `gradient` gave, and the metrics."""
        loss = loss / weight
        penalty, pull = jax.value_and_grad(penalty_of)(state.theta, base, aux)
        pulls = flatten(pull)
        grads = {path: g / weight + pulls[path] for path, g in grads.items()}
        grad_norm = optax.tree.norm(grads)
        # Frozen leaves get a zero that no optimizer group looks at: their gradient was never computed.
        whole = map_leaves(lambda path, leaf: grads.get(path, jnp.zeros((), leaf.dtype)), state.theta)

        def take():
            updates, opt_state = tx.update(whole, state.opt_state, state.theta)
            return optax.apply_updates(state.theta, updates), opt_state

        finite = jnp.isfinite(loss) & jnp.isfinite(penalty) & jnp.isfinite(grad_norm)
        # A branch, where a select would make XLA keep a copy of the old state.
        theta, opt_state = jax.lax.cond(finite, take, lambda: (state.theta, state.opt_state))
        missed = 1 - finite.astype(jnp.int32)
        in_a_row = (state.skipped_in_a_row + 1) * missed
        metrics = {"loss": loss, "penalty": penalty, "grad_norm": grad_norm, "skipped_in_a_row": in_a_row}
        return TrainState(state.step + 1, theta, opt_state, state.key, state.skipped + missed, in_a_row), metrics

    return update


def finished_params(method: Method, base: Params, theta: Params, fresh_heads: tuple[str, ...]) -> Params:
    """The plain parameters that a trained tree stands for, after whatever the method does at the end.

    `finish` is shown the base without its fresh heads: what they started from is noise, and no value to go back to.
    """
    valued = {**base, "heads": {name: head for name, head in base["heads"].items() if name not in fresh_heads}}
    return method.finish(valued, method.merge(base, theta))
