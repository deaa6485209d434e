"""The diagonal Fisher information of a task at some parameters, from per-example gradients.

    F = E_x E_{y ~ p(y|x)} [ (∂ log p(y|x) / ∂θ)² ]

per EXAMPLE, dropout off, in float32. The estimators differ in whose labels they use (vocabulary of curvlinops:
TYPE2 | MC | EMPIRICAL): `exact` sums over every label weighted by p(y|x); `mc` draws labels from the model and is
unbiased; `empirical` takes the data's labels, which is not the Fisher (Kunstner et al. 2019, arXiv 1905.12558): its
scale shrinks as the model fits. References: Kirkpatrick et al. 2017, arXiv 1612.00796; Martens 2014, arXiv 1412.1193.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.errors import InputError
from fft.paths import Params, flatten, overlay, unflatten

ESTIMATORS = ("exact", "mc", "empirical")


class Fisher(NamedTuple):
    """The diagonal, shaped like the parameters asked for, and what it was estimated from."""

    diagonal: Params
    estimator: str
    examples: int
    draws: int


def diagonal_fisher(
    model: Any,
    task: Any,
    params: Params,
    batches: Iterable[dict],
    key: jax.Array,
    *,
    estimator: str = "mc",
    draws: int = 1,
    chunk: int = 1,
    where: Callable[[str], bool] = lambda path: True,
    poll: Callable[[], None] = lambda: None,
) -> Fisher:
    """The mean over examples of squared per-example gradients, by `vmap(grad)` in chunks under `lax.scan`.

    `batches` are host batches (rows of weight 0 are filler); `where` says by path which leaves are asked for;
    `draws` labels a row are drawn by `mc`; `chunk` rows' gradients are held at once, which changes time and memory,
    never the result beyond rounding: row i draws its labels from fold_in(key, i).

    Errors: InputError for an unknown estimator, for no examples, and for a gradient that is not finite, by path.
    """
    if estimator not in ESTIMATORS:
        raise InputError(f"unknown Fisher estimator {estimator!r}; known are {', '.join(ESTIMATORS)}")
    leaves = flatten(params)
    asked = unflatten({path: leaf for path, leaf in leaves.items() if where(path)})
    total = jax.tree.map(jnp.zeros_like, asked)
    add = jax.jit(partial(_add_squares, model, task, estimator, draws), donate_argnums=0)
    rows = examples = 0
    for batch in batches:
        poll()
        chunks = _in_chunks(batch, rows, chunk)
        total = add(total, asked, params, chunks, key)
        rows += len(batch["weight"])
        examples += int(np.sum(batch["weight"] > 0))
    if examples == 0:
        raise InputError("the Fisher information needs at least one example of the original task, got none")
    diagonal = jax.tree.map(lambda leaf: leaf / examples, total)
    bad = [path for path, leaf in flatten(diagonal).items() if not bool(jnp.isfinite(leaf).all())]
    if bad:
        raise InputError(f"the Fisher information of {bad[0]} is not finite (and {len(bad) - 1} more leaves)")
    return Fisher(diagonal, estimator, examples, draws if estimator == "mc" else 1)


def _in_chunks(batch: dict, first_row: int, chunk: int) -> dict:
    """A host batch as [chunks, chunk, 1, ...] arrays with each row's number; the last chunk is filled up."""
    size = len(batch["weight"])
    numbered = {**batch, "row": np.arange(first_row, first_row + size, dtype=np.int32)}
    take = np.minimum(np.arange(-(-size // chunk) * chunk), size - 1)
    filler = np.arange(len(take)) >= size
    rows = {name: np.asarray(values)[take] for name, values in numbered.items()}
    rows["weight"] = np.where(filler, 0.0, rows["weight"]).astype(np.float32)
    return {name: values.reshape(-1, chunk, 1, *values.shape[1:]) for name, values in rows.items()}


def _add_squares(model, task, estimator, draws, total, asked, params, chunks, key):
    """`total` plus the squared gradients of every row in `chunks`; arrays [chunks, chunk, 1, ...]."""

    def of_row(row):
        return _squared_gradient(model, task, estimator, draws, asked, params, row, key)

    def of_chunk(total, rows):
        squares = jax.vmap(of_row)(rows)
        return jax.tree.map(lambda t, s: t + jnp.sum(s, axis=0), total, squares), None

    return jax.lax.scan(of_chunk, total, chunks)[0]


def _squared_gradient(model, task, estimator, draws, asked, params, row, key):
    """Σ_s w_s (∂ nll(y_s) / ∂θ)² for one row (batch arrays [1, ...]) over the estimator's labels y_s."""

    def logits_of(asked):
        return model.apply(overlay(params, asked), row)["logits"][task.name]

    logits, pull_back = jax.vjp(logits_of, asked)
    if estimator == "mc":
        keys = jax.random.split(jax.random.fold_in(key, row["row"][0]), draws)
        labels = jax.vmap(lambda k: task.sample(k, logits))(keys)
        weights = jnp.full(draws, 1 / draws)
    elif estimator == "exact":
        labels, weights = task.support(logits)
        weights = weights[:, 0]
    else:
        labels, weights = row["label"][None], jnp.ones(1)

    def add_label(total, label_and_weight):
        label, weight = label_and_weight

        def nll_of(logits):
            nll, _ = task.loss({"logits": {task.name: logits}}, {**row, "label": label})
            return jnp.sum(nll)

        (gradient,) = pull_back(jax.grad(nll_of)(logits))
        return jax.tree.map(lambda t, g: t + weight * jnp.square(g), total, gradient), None

    zeros = jax.tree.map(jnp.zeros_like, asked)
    return jax.lax.scan(add_label, zeros, (labels, weights))[0]
