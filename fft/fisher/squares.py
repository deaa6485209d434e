"""The sum of squared per-example gradients over the rows of a batch.

The estimator decides which targets are used and what is squared (see `diagonal.py`); `fused` and `vmapped` are two ways
to compute the same sum.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.batch import Labelled, row_weight, weighted_sum
from fft.core.naming import UNEMBED, head_path
from fft.core.network import Network, outputs_of
from fft.core.programs import shared
from fft.core.tree import Params, flatten, overlay, unflatten
from fft.tasks import Task

PER_EXAMPLE, PER_BATCH = ("exact", "mc", "empirical"), ("gnb", "batched")
ESTIMATORS = (*PER_EXAMPLE, *PER_BATCH)
WAYS = ("fused", "vmapped")

Squares = Callable[[Params, Params, Labelled, jax.Array], Params]
"""(selected, params, batch, key) -> Σ_b g_b²"""
Targets = Callable[[jax.Array, Labelled], tuple[jax.Array, jax.Array]]
"""(logits, batch) -> targets [S, B] or [S, B, T] and their weights, in the same shape"""


@shared
def squares_of(
    model: Network, task: Task, *, estimator: str, draws: int = 1, way: str = "fused", chunk: int = 1
) -> Squares:
    """Return the pure function (selected, params, batch, key) -> Σ_b g_b² over the rows of a batch [B, ...], float32.

    `selected` has some of the leaves of `params`, and the result its shape; `batch.row` int32 [B] seeds each row's
    draws. For `gnb` the result is B² (gradient of the batch's mean)², for `batched` B (gradient of the batch's mean)².
    """
    per_example = _squares_fused if way == "fused" else partial(_squares_vmapped, chunk)
    squares_over = _squares_of_a_batch if estimator in PER_BATCH else per_example

    def squares(selected: Params, params: Params, batch: Labelled, key: jax.Array) -> Params:
        return squares_over(model, task, partial(_targets, task, estimator, draws, key), selected, params, batch)

    return squares


def _targets(
    task: Task, estimator: str, draws: int, key: jax.Array, logits: jax.Array, batch: Labelled
) -> tuple[jax.Array, jax.Array]:
    """Return the estimator's targets for a batch and their weights, [S, B] each, or [S, B, T]."""
    shape = batch.weight.shape
    if estimator in ("mc", "gnb"):

        def of_row(row: jax.Array, logits: jax.Array) -> jax.Array:
            keys = jax.random.split(jax.random.fold_in(key, row), draws)
            return jax.vmap(lambda k: task.sample(k, logits[None])[0])(keys)

        return jnp.moveaxis(jax.vmap(of_row)(jnp.asarray(batch.row), logits), 0, 1), jnp.full(
            (draws, *shape), 1 / draws
        )
    if estimator == "exact":
        return _separate_tokens(*task.support(logits))
    weight = 1 / jnp.sum(row_weight(batch.weight) > 0) if estimator == "batched" else 1.0
    return jnp.asarray(batch.targets)[None], jnp.full((1, *shape), weight)


def _separate_tokens(targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Expand the support [C, B, T] of a task with T targets per row to [T · C, B, T], one target of each row at a time.

    The weights of the other targets are 0. A support [C, B] is returned unchanged. The targets of a row are independent
    given its text, and the gradient of each has mean 0 under the model, so the mean square of their sum is Σ p g² over
    targets and classes. With class c for all targets at once, g² would have cross terms, which no mean over draws has.
    """
    if targets.ndim == 2:
        return targets, weights
    classes, rows, tokens = targets.shape
    alone = jnp.eye(tokens)[:, None, None, :] * weights  # [T, C, B, T]
    repeated = jnp.broadcast_to(targets, (tokens, classes, rows, tokens))
    return repeated.reshape(-1, rows, tokens), alone.reshape(-1, rows, tokens)


def logits_of(model: Network, task: Task, params: Params, batch: Labelled) -> jax.Array:
    """Return a model's logits without dropout: [B, C] or [B, T, C]."""
    return task.logits(outputs_of(model, params, batch, read=(task.reads,)), batch)


def _over_targets(
    logits_at: Callable[[Params], jax.Array],
    transform: Callable[[jax.Array], jax.Array],
    task: Task,
    targets_of: Targets,
    at: Params,
    batch: Labelled,
) -> Params:
    """Return Σ_s transform(∂ Σ √w_s · weight · nll(y_s) / ∂ at), leaf by leaf; squared, √w_s becomes w_s."""
    logits, pull_back = jax.vjp(logits_at, at)

    def add(total: Params, targets_and_weights: tuple[jax.Array, jax.Array]) -> tuple[Params, None]:
        targets, weights = targets_and_weights

        def scaled_nll(logits: jax.Array) -> jax.Array:
            return weighted_sum(jnp.sqrt(weights) * task.nll(logits, targets), batch.weight)

        (gradient,) = pull_back(jax.grad(scaled_nll)(logits))
        return jax.tree.map(lambda t, g: t + transform(g), total, gradient), None

    return jax.lax.scan(add, zeros_like(at), targets_of(logits, batch))[0]


def zeros_like(selected: Params) -> Params:
    """Return float32 zeros in the shape of every leaf."""
    return jax.tree.map(partial(jnp.zeros_like, dtype=jnp.float32), selected)


def leaves_read(task: Task, selected: Params) -> Params:
    """Return the selected leaves that the task's logits depend on.

    Other heads, and for a task that reads tokens the pooler, are left out: the fused pass never reaches them.
    """
    heads = tuple(map(head_path, task.heads))
    unread = ("heads/", f"{UNEMBED}/", *(("pooler/",) if task.reads == "tokens" else ()))
    leaves = flatten(selected).items()
    return unflatten({path: leaf for path, leaf in leaves if path.startswith(heads) or not path.startswith(unread)})


def _squares_fused(
    model: Network, task: Task, targets_of: Targets, selected: Params, params: Params, batch: Labelled
) -> Params:
    from fft.models.probes.fused import forward

    merged = overlay(params, selected)

    def logits_at(sinks: Params) -> jax.Array:
        run = partial(logits_of, model, task, batch=batch)
        return forward(run, merged, leaves_read(task, sinks), len(batch.weight))

    return _over_targets(logits_at, lambda squares: squares, task, targets_of, zeros_like(selected), batch)


def _squares_vmapped(
    chunk: int, model: Network, task: Task, targets_of: Targets, selected: Params, params: Params, batch: Labelled
) -> Params:
    def of_row(row: Labelled) -> Params:
        return _squares_of_a_batch(model, task, targets_of, selected, params, row)

    return sum_over_rows(of_row, zeros_like(selected), batch, chunk)


def sum_over_rows(of_row: Callable[[Labelled], Params], start: Params, batch: Labelled, chunk: int = 1) -> Params:
    """Return `start` + Σ_b of_row(row b) for rows [1, ...] of a batch, `chunk` of them at a time with vmap.

    `of_row` must be 0 for a row of weight 0, with which the last chunk is filled.
    """

    def of_chunk(total: Params, rows: Labelled) -> tuple[Params, None]:
        if chunk == 1:
            return jax.tree.map(jnp.add, total, of_row(jax.tree.map(lambda values: values[0], rows))), None
        return jax.tree.map(lambda t, s: t + jnp.sum(s, axis=0), total, jax.vmap(of_row)(rows)), None

    return jax.lax.scan(of_chunk, start, _in_chunks(batch, chunk))[0]


def _squares_of_a_batch(
    model: Network, task: Task, targets_of: Targets, selected: Params, params: Params, batch: Labelled
) -> Params:
    """Return Σ_s (Σ_b √w_sb g_sb)²: for one row its squared gradient, for B rows B² (gradient of the mean)²."""

    def logits_at(selected: Params) -> jax.Array:
        return logits_of(model, task, overlay(params, selected), batch)

    return _over_targets(logits_at, lambda g: jnp.square(g.astype(jnp.float32)), task, targets_of, selected, batch)


def _in_chunks(batch: Labelled, chunk: int) -> Labelled:
    """Reshape a batch [B, ...] to [chunks, chunk, 1, ...]; the last chunk is padded with rows of weight 0."""
    size = len(batch.weight)
    chunk = min(chunk, size)
    take = np.minimum(np.arange(-(-size // chunk) * chunk), size - 1)
    filler = np.arange(len(take)) >= size
    rows = jax.tree.map(lambda values: jnp.asarray(values)[take], batch)
    weight = jnp.where(filler.reshape(-1, *(1,) * (rows.weight.ndim - 1)), 0.0, rows.weight)
    rows = rows._replace(weight=weight)
    return jax.tree.map(lambda values: values.reshape(-1, chunk, 1, *values.shape[1:]), rows)
