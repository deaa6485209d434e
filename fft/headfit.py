"""A head for the original task, trained on the frozen base, for checkpoints that have none."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fft.paths import Params

STEPS, LEARNING_RATE, WEIGHT_DECAY = 300, 1e-2, 1e-3


def fit_head(
    checkpoint: Any, task: Any, batches: Iterable[dict], key: jax.Array, poll: Callable[[], None] = lambda: None
) -> tuple[Params, dict]:
    """The head parameters of `task` and how they were fitted; the checkpoint is read, never changed.

    The base's pooled features [N, D] are computed once; then AdamW takes STEPS full-batch steps with a cosine
    schedule on the head alone, dropout off.
    """
    features, labels, weights = _features(checkpoint.model, checkpoint.params, batches, poll)
    data = {"pooled": features, "label": labels, "weight": weights}
    head, losses = _descend(checkpoint.model, task, checkpoint.model.init_head(key, task.outputs), data)
    how = {"rows": len(labels), "steps": STEPS, "lr": LEARNING_RATE, "loss_first": losses[0], "loss_last": losses[-1]}
    return head, how


def _features(model, params, batches, poll):
    """Pooled features [N, D], labels [N], weights [N] of the real rows, on the host."""
    pooled_of = jax.jit(lambda params, batch: model.apply(params, batch)["pooled"])
    parts = []
    for batch in batches:
        poll()
        real = batch["weight"] > 0
        parts.append((np.asarray(pooled_of(params, batch))[real], batch["label"][real], batch["weight"][real]))
    return (np.concatenate(columns) for columns in zip(*parts, strict=True))


def _descend(model, task, head, data):
    """`head` after STEPS steps on arrays [N, ...], with the first and the last mean loss."""
    tx = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, STEPS), weight_decay=WEIGHT_DECAY)

    def mean_loss(head, data):
        logits = model.head(head, data["pooled"])
        nll, weight = task.loss({"logits": {task.name: logits}}, data)
        return jnp.sum(nll) / jnp.sum(weight)

    @partial(jax.jit, donate_argnums=0)
    def descend(head, data):
        def step(carry, _):
            head, opt_state = carry
            loss, grads = jax.value_and_grad(mean_loss)(head, data)
            updates, opt_state = tx.update(grads, opt_state, head)
            return (optax.apply_updates(head, updates), opt_state), loss

        (head, _), losses = jax.lax.scan(step, (head, tx.init(head)), None, length=STEPS)
        return head, losses

    head, losses = descend(head, jax.tree.map(jnp.asarray, data))
    return head, (float(losses[0]), float(losses[-1]))
