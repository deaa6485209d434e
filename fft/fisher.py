"""The diagonal Fisher information of a task at some parameters.

    F = E_x E_{y ~ p(y|x)} [ (∂ log p(y|x) / ∂θ)² ]

per EXAMPLE, dropout off, in float32. The estimators differ in whose labels they use and in what they square
(vocabulary of curvlinops: TYPE2 | MC | EMPIRICAL):

    exact      every label, weighted by p(y|x): the definition
    mc         labels drawn from the model: unbiased
    empirical  the data's labels: not the Fisher (Kunstner et al. 2019, arXiv 1905.12558); its scale shrinks as the
               model fits
    gnb        B (gradient of a batch's mean)² with drawn labels: unbiased, because the gradients of examples have
               mean 0 under the model, but √B times noisier than mc (Liu et al. 2023, arXiv 2305.14342)
    batched    (gradient of a batch's mean)² with the data's labels, as much published code has it: about 1/B of the
               scale, so that the best λ of EWC depends on the batch size. Only to reproduce such code

References: Kirkpatrick et al. 2017, arXiv 1612.00796; Martens 2014, arXiv 1412.1193; van de Ven 2025, arXiv 2502.11756.
"""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.errors import InputError
from fft.paths import Params, flatten, overlay, unflatten

PER_EXAMPLE, PER_BATCH = ("exact", "mc", "empirical"), ("gnb", "batched")
ESTIMATORS = (*PER_EXAMPLE, *PER_BATCH)
WAYS = ("fused", "vmapped")


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
    way: str = "fused",
    chunk: int = 1,
    where: Callable[[str], bool] = lambda path: True,
    poll: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Fisher:
    """The mean over examples of squared per-example gradients.

    `batches` are host batches (rows of weight 0 are filler); `where` says by path which leaves are asked for;
    `draws` labels a row are drawn by `mc` and `gnb`: row i draws its labels from fold_in(key, i). Two ways, one result
    beyond rounding: `fused` takes one backward pass a batch (see fft.models.fused) and knows the operations of this
    package's models; `vmapped` takes `vmap(grad)` over `chunk` rows at a time and works for any function.

    Errors: InputError for an unknown estimator or way, for no examples, for a model that the fused way does not
    cover, and for a gradient that is not finite, by path. `warn` is told of `batched`.
    """
    for what, value, known in (("estimator", estimator, ESTIMATORS), ("way", way, WAYS)):
        if value not in known:
            raise InputError(f"unknown Fisher {what} {value!r}; known are {', '.join(known)}")
    if estimator == "batched":
        warn("the batched estimator squares a mean: its scale shrinks with the batch, and the best λ moves with it")
    fused = way == "fused" and estimator in PER_EXAMPLE
    leaves = flatten(params)
    asked = unflatten({path: leaf for path, leaf in leaves.items() if where(path)})
    total = _zeros(asked)
    per_example = _squares_fused if fused else partial(_squares_vmapped, chunk)
    squares = _squares_of_a_batch if estimator in PER_BATCH else per_example
    add = jax.jit(partial(_add, squares, model, task, estimator, draws), donate_argnums=0)
    rows = examples = 0
    for batch in batches:
        poll()
        numbered = {**batch, "row": np.arange(rows, rows + len(batch["weight"]), dtype=np.int32)}
        if rows == 0 and fused:
            from fft.models.fused import refuse_raw_readers

            refuse_raw_readers(model.apply, params, asked, batch)
        total = add(total, asked, params, numbered, key)
        rows += len(batch["weight"])
        examples += int(np.sum(batch["weight"] > 0))
    if examples == 0:
        raise InputError("the Fisher information needs at least one example of the original task, got none")
    diagonal = jax.tree.map(lambda leaf: leaf / examples, total)
    if bad := [path for path, leaf in flatten(diagonal).items() if not bool(jnp.isfinite(leaf).all())]:
        raise InputError(f"the Fisher information of {bad[0]} is not finite (and {len(bad) - 1} more leaves)")
    return Fisher(diagonal, estimator, examples, draws if estimator in ("mc", "gnb") else 1)


def _add(squares, model, task, estimator, draws, total, asked, params, batch, key):
    """`total` plus Σ_b g_b² over the rows of a batch, arrays [B, ...]."""
    labels_of = partial(_labels, task, estimator, draws, key)
    return jax.tree.map(jnp.add, total, squares(model, task, labels_of, asked, params, batch))


def _labels(task, estimator, draws, key, logits, batch):
    """The estimator's labels [S, B, ...] for a batch and their weights [S, B]."""
    rows = len(batch["weight"])
    if estimator in ("mc", "gnb"):

        def of_row(row, logits):
            keys = jax.random.split(jax.random.fold_in(key, row), draws)
            return jax.vmap(lambda k: task.sample(k, logits[None])[0])(keys)

        return jnp.moveaxis(jax.vmap(of_row)(batch["row"], logits), 0, 1), jnp.full((draws, rows), 1 / draws)
    if estimator == "exact":
        return task.support(logits)
    weight = 1 / jnp.sum(batch["weight"] > 0) if estimator == "batched" else 1.0
    return batch["label"][None], jnp.full((1, rows), weight)


def _over_labels(outputs_of, each, task, labels_of, asked, batch):
    """Σ_s each(∂ Σ_b √w_sb nll_b(y_sb) / ∂ asked), leaf by leaf: a squared gradient then carries the weight itself."""
    logits, pull_back = jax.vjp(lambda asked: outputs_of(asked)["logits"][task.name], asked)

    def add(total, label_and_weight):
        label, weight = label_and_weight

        def scaled_nll(logits):
            nll, _ = task.loss({"logits": {task.name: logits}}, {**batch, "label": label})
            return jnp.sum(jnp.sqrt(weight) * nll)

        (gradient,) = pull_back(jax.grad(scaled_nll)(logits))
        return jax.tree.map(lambda t, g: t + each(g), total, gradient), None

    return jax.lax.scan(add, _zeros(asked), labels_of(logits, batch))[0]


def _zeros(asked):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), asked)


def _squares_fused(model, task, labels_of, asked, params, batch):
    from fft.models.fused import forward  # flax, which `fft tune --help` does without

    def outputs_of(asked):
        return forward(model.apply, params, asked, batch)

    return _over_labels(outputs_of, lambda squares: squares, task, labels_of, asked, batch)


def _squares_vmapped(chunk, model, task, labels_of, asked, params, batch):
    def of_row(row):
        return _squares_of_a_batch(model, task, labels_of, asked, params, row)

    def of_chunk(total, rows):
        squares = jax.vmap(of_row)(rows)
        return jax.tree.map(lambda t, s: t + jnp.sum(s, axis=0), total, squares), None

    return jax.lax.scan(of_chunk, _zeros(asked), _in_chunks(batch, chunk))[0]


def _squares_of_a_batch(model, task, labels_of, asked, params, batch):
    """Σ_s (Σ_b √w_sb g_sb)²: of one row its squared gradient; of B rows B² (gradient of the mean)²."""

    def outputs_of(asked):
        return model.apply(overlay(params, asked), batch)

    return _over_labels(outputs_of, lambda g: jnp.square(g.astype(jnp.float32)), task, labels_of, asked, batch)


def _in_chunks(batch, chunk):
    """A batch [B, ...] as [chunks, chunk, 1, ...]; the last chunk is filled up with rows of weight 0."""
    size = len(batch["weight"])
    chunk = min(chunk, size)
    take = np.minimum(np.arange(-(-size // chunk) * chunk), size - 1)
    filler = np.arange(len(take)) >= size
    rows = {name: jnp.asarray(values)[take] for name, values in batch.items()}
    rows["weight"] = jnp.where(filler, 0.0, rows["weight"])
    return {name: values.reshape(-1, chunk, 1, *values.shape[1:]) for name, values in rows.items()}
