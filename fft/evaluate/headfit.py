"""Train a head on the frozen base, for checkpoints without a head for the original task."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fft.core.batch import Batch, weighted_sum
from fft.core.network import on_host, outputs_of
from fft.core.progress import doing
from fft.core.tree import Params
from fft.models import Checkpoint, Model
from fft.tasks import Task

STEPS, WEIGHT_DECAY = 100, 1e-4


def fit_head(
    checkpoint: Checkpoint,
    task: Task,
    batches: Iterable[Batch],
    key: jax.Array,
    poll: Callable[[], None] = lambda: None,
) -> tuple[Params, dict]:
    """Fit a head for `task` and return its parameters and {"rows", "steps", "loss_first", "loss_last"}.

    The base's states that the task reads, [N, D] or [N, S, D], are computed once, without dropout. L-BFGS then takes
    STEPS full-batch steps on the head alone; the objective is the mean loss plus ½ WEIGHT_DECAY Σ kernel².
    """
    data = _features(checkpoint.model, checkpoint.params, task, batches, poll)
    head, losses = _descend(checkpoint.model, task, checkpoint.model.init_head(key, task.outputs), data)
    fit = {"rows": len(data.targets), "steps": STEPS, "loss_first": losses[0], "loss_last": losses[-1]}
    return head, fit


class Features(NamedTuple):
    """The training data of a head: for N rows the states that it reads, the targets and the weights."""

    states: np.ndarray
    """[N, D] or [N, S, D], S the most places of a row"""
    targets: np.ndarray
    """[N] or [N, S]"""
    weight: np.ndarray
    """[N] or [N, S]"""


def _features(model: Model, params: Params, task: Task, batches: Iterable[Batch], poll: Callable[[], None]) -> Features:
    """Compute the Features of the real rows, on the host."""

    def states_of(params: Params, batch: Batch) -> jax.Array:
        return task.states_read(outputs_of(model, params, batch, read=(task.reads,)), batch)

    return Features(*on_host(states_of, params, batches, poll))


def _descend(model: Model, task: Task, head: Params, data: Features) -> tuple[Params, tuple[float, float]]:
    """Return `head` after STEPS steps, with the first and the last value of the objective."""
    tx = optax.lbfgs()

    def objective(head: Params, data: Features) -> jax.Array:
        nll = task.nll(model.readout({"heads": {task.name: head}}, task.name, data.states), data.targets)
        squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(head) if leaf.ndim > 1)
        return weighted_sum(nll, data.weight) / jnp.sum(data.weight) + 0.5 * WEIGHT_DECAY * squares

    @jax.jit
    def descend(head: Params, data: Features) -> tuple[Params, jax.Array]:
        def at(head: Params) -> jax.Array:
            return objective(head, data)

        def step(carry: tuple[Params, optax.OptState], _: None) -> tuple[tuple[Params, optax.OptState], jax.Array]:
            head, state = carry
            value, grad = cast("tuple[jax.Array, Params]", optax.value_and_grad_from_state(at)(head, state=state))
            updates, state = tx.update(grad, state, head, value=value, grad=grad, value_fn=at)
            return (cast("Params", optax.apply_updates(head, updates)), state), value

        (head, _), values = jax.lax.scan(step, (head, tx.init(head)), None, length=STEPS)
        return head, values

    with doing(f"{STEPS} steps of L-BFGS on the head"):
        head, values = descend(head, jax.tree.map(jnp.asarray, data))
        return head, (float(values[0]), float(values[-1]))
