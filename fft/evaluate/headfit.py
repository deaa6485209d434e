"""A head for the original task, trained on the frozen base, for checkpoints that have none."""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fft.core.progress import doing
from fft.core.tree import Params
from fft.models import Checkpoint, Model
from fft.tasks import Task

STEPS, WEIGHT_DECAY = 100, 1e-4


def fit_head(
    checkpoint: Checkpoint, task: Task, batches: Iterable[dict], key: jax.Array, poll: Callable[[], None] = lambda: None
) -> tuple[Params, dict]:
    """The head parameters of `task` and how they were fitted; the checkpoint is read, never changed.

    The base's pooled features [N, D] are computed once; then L-BFGS takes STEPS full-batch steps on the head alone,
    dropout off, with ½ WEIGHT_DECAY Σ kernel² beside the mean loss.
    """
    features, labels, weights = _features(checkpoint.model, checkpoint.params, batches, poll)
    data = {"pooled": features, "label": labels, "weight": weights}
    head, losses = _descend(checkpoint.model, task, checkpoint.model.init_head(key, task.outputs), data)
    how = {"rows": len(labels), "steps": STEPS, "loss_first": losses[0], "loss_last": losses[-1]}
    return head, how


def _features(model: Model, params: Params, batches: Iterable[dict], poll: Callable[[], None]) -> Iterator[np.ndarray]:
    """Pooled features [N, D], labels [N], weights [N] of the real rows, on the host."""
    pooled_of = jax.jit(lambda params, batch: model.apply(params, batch)["pooled"])
    parts = []
    for batch in batches:
        poll()
        real = batch["weight"] > 0
        parts.append((np.asarray(pooled_of(params, batch))[real], batch["label"][real], batch["weight"][real]))
    return (np.concatenate(columns) for columns in zip(*parts, strict=True))


def _descend(model: Model, task: Task, head: Params, data: dict[str, np.ndarray]) -> tuple[Params, tuple[float, float]]:
    """`head` after STEPS steps on arrays [N, ...], with the first and the last value of the objective."""
    tx = optax.lbfgs()

    def objective(head: Params, data: dict[str, jax.Array]) -> jax.Array:
        logits = model.head(head, data["pooled"])
        nll, weight = task.loss({"logits": {task.name: logits}}, data)
        squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(head) if leaf.ndim > 1)
        return jnp.sum(nll) / jnp.sum(weight) + 0.5 * WEIGHT_DECAY * squares

    @jax.jit
    def descend(head: Params, data: dict[str, jax.Array]) -> tuple[Params, jax.Array]:
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
