"""Σ of squared per-example gradients over the rows of a batch: the pure heart of the Fisher pass.

Whose labels, and what is squared, is the estimator's (see `diagonal.py`); there are two ways to the same sum: `fused`
and `vmapped`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.tree import Params, overlay
from fft.tasks import Task

if TYPE_CHECKING:
    from fft.models.model import Model

PER_EXAMPLE, PER_BATCH = ("exact", "mc", "empirical"), ("gnb", "batched")
ESTIMATORS = (*PER_EXAMPLE, *PER_BATCH)
WAYS = ("fused", "vmapped")

Squares = Callable[[Params, Params, dict, jax.Array], Params]
"""(asked, params, batch, key) -> Σ_b g_b²"""
Labels = Callable[[jax.Array, dict], tuple[jax.Array, jax.Array]]
"""(logits, batch) -> labels [S, B, ...] and their weights [S, B]"""


def squares_of(
    model: "Model", task: Task, *, estimator: str, draws: int = 1, way: str = "fused", chunk: int = 1
) -> Squares:
    """The pure function (asked, params, batch, key) -> Σ_b g_b² over the rows of a batch [B, ...], float32.

    The result is shaped like `asked`, some of the leaves of `params`; the batch holds "row" int32 [B], the numbers
    that draws are made from. For `gnb` and `batched` it is B² (gradient of the batch's mean)², for `batched` over B.
    """
    per_example = _squares_fused if way == "fused" else partial(_squares_vmapped, chunk)
    road = _squares_of_a_batch if estimator in PER_BATCH else per_example

    def squares(asked: Params, params: Params, batch: dict, key: jax.Array) -> Params:
        return road(model, task, partial(_labels, task, estimator, draws, key), asked, params, batch)

    return squares


def _labels(
    task: Task, estimator: str, draws: int, key: jax.Array, logits: jax.Array, batch: dict
) -> tuple[jax.Array, jax.Array]:
    """The estimator's labels [S, B, ...] for a batch and their weights [S, B]."""
    rows = len(batch["weight"])
    if estimator in ("mc", "gnb"):

        def of_row(row: jax.Array, logits: jax.Array) -> jax.Array:
            keys = jax.random.split(jax.random.fold_in(key, row), draws)
            return jax.vmap(lambda k: task.sample(k, logits[None])[0])(keys)

        return jnp.moveaxis(jax.vmap(of_row)(batch["row"], logits), 0, 1), jnp.full((draws, rows), 1 / draws)
    if estimator == "exact":
        return task.support(logits)
    weight = 1 / jnp.sum(batch["weight"] > 0) if estimator == "batched" else 1.0
    return batch["label"][None], jnp.full((1, rows), weight)


def _over_labels(
    outputs_of: Callable[[Params], dict],
    each: Callable[[jax.Array], jax.Array],
    task: Task,
    labels_of: Labels,
    at: Params,
    batch: dict,
) -> Params:
    """Σ_s each(∂ Σ_b √w_sb nll_b(y_sb) / ∂ at), leaf by leaf: a squared gradient then carries the weight itself."""
    logits, pull_back = jax.vjp(lambda at: task.logits(outputs_of(at), batch), at)

    def add(total: Params, label_and_weight: tuple[jax.Array, jax.Array]) -> tuple[Params, None]:
        label, weight = label_and_weight

        def scaled_nll(logits: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sqrt(weight) * task.nll(logits, {**batch, "label": label}))

        (gradient,) = pull_back(jax.grad(scaled_nll)(logits))
        return jax.tree.map(lambda t, g: t + each(g), total, gradient), None

    return jax.lax.scan(add, zeros_like(at), labels_of(logits, batch))[0]


def zeros_like(asked: Params) -> Params:
    """A float32 zero for every leaf."""
    return jax.tree.map(partial(jnp.zeros_like, dtype=jnp.float32), asked)


def _squares_fused(model: "Model", task: Task, labels_of: Labels, asked: Params, params: Params, batch: dict) -> Params:
    from fft.models.probes.fused import forward

    def outputs_of(sinks: Params) -> dict:
        return forward(model.apply, overlay(params, asked), sinks, batch)

    return _over_labels(outputs_of, lambda squares: squares, task, labels_of, zeros_like(asked), batch)


def _squares_vmapped(
    chunk: int, model: "Model", task: Task, labels_of: Labels, asked: Params, params: Params, batch: dict
) -> Params:
    def of_row(row: dict) -> Params:
        return _squares_of_a_batch(model, task, labels_of, asked, params, row)

    def of_chunk(total: Params, rows: dict) -> tuple[Params, None]:
        squares = jax.vmap(of_row)(rows)
        return jax.tree.map(lambda t, s: t + jnp.sum(s, axis=0), total, squares), None

    return jax.lax.scan(of_chunk, zeros_like(asked), _in_chunks(batch, chunk))[0]


def _squares_of_a_batch(
    model: "Model", task: Task, labels_of: Labels, asked: Params, params: Params, batch: dict
) -> Params:
    """Σ_s (Σ_b √w_sb g_sb)²: of one row its squared gradient; of B rows B² (gradient of the mean)²."""

    def outputs_of(asked: Params) -> dict:
        return model.apply(overlay(params, asked), batch)

    return _over_labels(outputs_of, lambda g: jnp.square(g.astype(jnp.float32)), task, labels_of, asked, batch)


def _in_chunks(batch: dict, chunk: int) -> dict[str, jax.Array]:
    """A batch [B, ...] as [chunks, chunk, 1, ...]; the last chunk is filled up with rows of weight 0."""
    size = len(batch["weight"])
    chunk = min(chunk, size)
    take = np.minimum(np.arange(-(-size // chunk) * chunk), size - 1)
    filler = np.arange(len(take)) >= size
    rows = {name: jnp.asarray(values)[take] for name, values in batch.items()}
    rows["weight"] = jnp.where(filler, 0.0, rows["weight"])
    return {name: values.reshape(-1, chunk, 1, *values.shape[1:]) for name, values in rows.items()}
