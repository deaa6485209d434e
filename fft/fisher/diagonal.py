"""The diagonal Fisher information of a task at some parameters.

    F = E_x E_{y ~ p(y|x)} [ (∂ log p(y|x) / ∂θ)² ]

per EXAMPLE, dropout off, in float32. The estimators differ in where the labels come from and in what is squared
(curvlinops calls the first three TYPE2, MC and EMPIRICAL):

    exact      every label, weighted by p(y|x): the definition
    mc         labels drawn from the model: unbiased
    empirical  the data's labels: not the Fisher (Kunstner et al. 2019, arXiv 1905.12558); its scale shrinks as the
               model fits
    gnb        B (gradient of a batch's mean)² with drawn labels: unbiased, because the gradients of examples have
               mean 0 under the model, but √B times noisier than mc (Liu et al. 2023, arXiv 2305.14342)
    batched    (gradient of a batch's mean)² with the data's labels, as in much published code: about 1/B of the
               scale, so that the best λ of EWC depends on the batch size. Only to reproduce such code

References: Kirkpatrick et al. 2017, arXiv 1612.00796; Martens 2014, arXiv 1412.1193; van de Ven 2025, arXiv 2502.11756.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from fft.core.batch import Array, Batch, Labelled, row_weight
from fft.core.bounds import Count, Share, check_bounds
from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.network import Network
from fft.core.programs import shared
from fft.core.tree import Params, flatten, sum_of, unflatten
from fft.fisher.sharding import sharded, split_rows
from fft.fisher.squares import (
    ESTIMATORS,
    PER_BATCH,
    PER_EXAMPLE,
    WAYS,
    Squares,
    leaves_read,
    logits_of,
    squares_of,
    zeros_like,
)
from fft.tasks import Task

MOST_DRAWS = 10_000  # all draws are in memory at once
MOST_EXACT = 1_000  # backward passes per batch
FEWEST_BATCHES = 8  # needed to estimate the error of the trace


@dataclass(frozen=True)
class FisherPass:
    """Settings of a pass that estimates the Fisher information."""

    estimator: Literal["exact", "mc", "empirical", "gnb", "batched"] = "mc"
    """which labels: drawn from the model (mc), all of them weighted by the model's probabilities (exact), or the data's
    (empirical, not the Fisher); gnb squares a batch's gradient for drawn labels, batched for the data's (only to
    reproduce published code)"""
    samples: Count = 512
    """original training rows that the Fisher pass reads, chosen by the seed"""
    draws: Annotated[int, Interval(ge=1, le=MOST_DRAWS)] = 1
    """labels drawn per row by `mc` and `gnb`"""
    batch_size: Count = 32
    """rows of one forward pass"""
    way: Literal["fused", "vmapped"] = "fused"
    """fused: one backward pass per batch; vmapped: vmap(grad) over `chunk` rows at a time, for any model"""
    chunk: Count = 1
    """rows whose gradients `vmapped` computes at once"""
    converged: Share = 0.0
    """stop before `samples` once the 95 % half-width of the trace, as a share of the trace, is at most this; 0 reads
    all rows"""

    def __post_init__(self) -> None:
        check_bounds(self)


class Fisher(NamedTuple):
    """The diagonal, shaped like the selected parameters, and how it was estimated."""

    diagonal: Params
    estimator: str
    examples: int
    draws: int
    trace: float
    """Σ of the diagonal"""
    trace_error: float
    """the 95 % half-width of the trace over batches as a share of the trace; inf for fewer than 8 batches"""
    __repr__ = brief


class Running(NamedTuple):
    """The state of an unfinished pass, from which a later call can resume."""

    total: Params
    """Σ g² over the rows read, float32; the next batch donates it, so copy it to keep it"""
    rows: int
    """rows read, padding rows included"""
    examples: int
    traces: tuple[float, ...]
    """per batch, the trace of the mean over its examples"""


def _check(estimator: str, way: str, task: Task, say: Callable[[str], None]) -> None:
    """Reject an unknown estimator or way, and warn about `batched`."""
    for setting, value, known in (("estimator", estimator, ESTIMATORS), ("way", way, WAYS)):
        if value not in known:
            raise InputError(f"unknown Fisher {setting} {value!r}; known are {', '.join(known)}")
    if estimator == "batched":
        say(
            "warning: the batched estimator squares a mean: its scale shrinks with the batch size, so the best λ "
            "depends on it; use mc unless you reproduce published code"
        )


def _check_passes(estimator: str, task: Task, batch: Labelled) -> None:
    """Reject `exact` if a batch takes more than MOST_EXACT backward passes: one per output and per target of a row."""
    if estimator == "exact" and not task.enumerable:
        raise InputError(
            f"exact would take a backward pass for each token of the vocabulary at each place of a {task.kind} task; "
            "use mc, which is unbiased and takes one for each draw"
        )
    passes = task.outputs * math.prod(batch.weight.shape[1:])
    if estimator == "exact" and passes > MOST_EXACT:
        of_targets = "" if batch.weight.ndim == 1 else f" at each of {batch.weight.shape[1]} tokens"
        raise InputError(
            f"exact would take {passes:,} backward passes a batch, one for each output of {task.name!r}{of_targets}; "
            "use mc, which is unbiased and takes one for each draw"
        )


def diagonal_fisher(
    model: Network,
    task: Task,
    params: Params,
    batches: Iterable[Labelled],
    key: jax.Array,
    *,
    estimator: str = "mc",
    draws: int = 1,
    way: str = "fused",
    chunk: int = 1,
    converged: float = 0.0,
    where: Callable[[str], bool] = lambda path: True,
    mesh: jax.sharding.Mesh | None = None,
    start: Running | None = None,
    watch: Callable[[Running], None] = lambda running: None,
    say: Callable[[str], None] = warnings.warn,
) -> Fisher:
    """Estimate the diagonal Fisher information: the mean over examples of squared per-example gradients.

    `batches` are host batches (rows of weight 0 are padding); `where` selects leaves by path. `mc` and `gnb` draw
    `draws` labels per row, those of row i from fold_in(key, i). The two ways agree up to rounding: `fused` takes one
    backward pass per batch (fft.models.probes.fused) but covers only the operations of this package's models;
    `vmapped` takes `vmap(grad)` over `chunk` rows at a time and works for any function.

    `watch` is called with the state after every batch. A pass that gets such a state as `start`, and the same batches
    from the first on, resumes there and ends in the same bits. `converged` > 0 stops early, see `relative_error`. On a
    `mesh` every device takes its share of a batch's rows; parameters sharded over the mesh stay sharded, and so is
    their part of the diagonal (see fft.fisher.sharding). `say` receives warnings about `batched` and about a trace of
    0, and a message when the pass stops early.

    Raises: InputError for an unknown estimator or way, for no examples, for packed rows, for `exact` with more than
    MOST_EXACT passes, for a model that `fused` does not cover, and for a gradient that is not finite (naming
    `batch.row` and path).
    """
    _check(estimator, way, task, say)
    selected = unflatten({path: leaf for path, leaf in flatten(params).items() if where(path)})
    squares = squares_of(model, task, estimator=estimator, draws=draws, way=way, chunk=chunk)
    add = _adder(squares, mesh, selected, params, estimator)
    running = start or Running(zeros_like(selected), 0, 0, ())
    for batch in islice(batches, len(running.traces), None):
        if isinstance(batch, Batch) and batch.segments is not None:
            raise InputError(
                "the Fisher information is a mean over texts, and a packed row holds several: give batches of one text "
                "a row, such as those of fft.data.eval_batches"
            )
        size = len(batch.weight)
        in_order = batch._replace(row=np.arange(running.rows, running.rows + size, dtype=np.int32))
        _check_passes(estimator, task, batch)
        if not running.rows and way == "fused" and estimator in PER_EXAMPLE:
            from fft.models.probes.fused import refuse_raw_readers

            run = partial(logits_of, model, task, batch=batch)
            refuse_raw_readers(run, params, leaves_read(task, zeros_like(selected)), size)
        rows = split_rows(in_order, mesh) if mesh is not None else in_order
        total, trace = add(running.total, selected, params, rows, key)
        if not math.isfinite(trace):
            raise InputError(_describe_non_finite(squares, selected, params, in_order, batch.row, key))
        real = int(np.sum(row_weight(batch.weight) > 0))
        traces = (*running.traces, float(trace) / max(real, 1))
        running = Running(total, running.rows + size, running.examples + real, traces)
        watch(running)
        if converged and relative_error(traces) <= converged:
            precision = f"the 95 % half-width of the trace is {relative_error(traces):.3g} of it"
            say(f"converged after {counted(running.examples, 'row')}: {precision}")
            break
    if running.examples == 0:
        raise InputError("the Fisher information needs at least one example of the original task, got none")
    diagonal, trace = _finished(running.total, running.examples)
    trace = float(trace)
    if trace == 0:
        say(
            "warning: the Fisher information is 0 everywhere: the model is certain of every answer, and EWC would have "
            "no effect"
        )
    drawn = draws if estimator in ("mc", "gnb") else 1
    return Fisher(diagonal, estimator, running.examples, drawn, trace, relative_error(running.traces))


@jax.jit
def _finished(total: Params, examples: int) -> tuple[Params, jax.Array | int]:
    """Return the diagonal and its trace, computed in one program.

    On a mesh every sum is a collective, and many small collectives in flight can deadlock on simulated devices.
    """
    diagonal = jax.tree.map(lambda leaf: leaf / examples, total)
    return diagonal, sum_of(diagonal)


def relative_error(traces: tuple[float, ...]) -> float:
    """Return the 95 % half-width of the mean of k batches' traces as a share of that mean: 1.96 sd / (√k mean).

    inf for fewer than FEWEST_BATCHES. The batches must be in random order, like those of `fft.data.streams`.
    """
    if len(traces) < FEWEST_BATCHES or not sum(traces):
        return math.inf
    return 1.96 * float(np.std(traces, ddof=1)) / math.sqrt(len(traces)) / float(np.mean(traces))


def _adder(
    squares: Squares, mesh: jax.sharding.Mesh | None, selected: Params, params: Params, estimator: str
) -> Callable[[Params, Params, Params, Labelled, jax.Array], tuple[Params, jax.Array]]:
    """Return the compiled (total, selected, params, batch, key) -> (total + Σ_b g_b², trace of Σ_b g_b²).

    `total` is donated. Raises: InputError for `gnb` and `batched` on a mesh.
    """
    if mesh is not None:
        if estimator in PER_BATCH:
            raise InputError(f"{estimator} squares a whole batch's gradient and takes one device: use mc or empirical")
        squares = sharded(squares, mesh, selected, params)
    return _adding(squares)


@shared
def _adding(squares: Squares) -> Callable[[Params, Params, Params, Labelled, jax.Array], tuple[Params, jax.Array]]:
    @partial(jax.jit, donate_argnums=0)
    def add(
        total: Params, selected: Params, params: Params, batch: Labelled, key: jax.Array
    ) -> tuple[Params, jax.Array | int]:
        addend = squares(selected, params, batch, key)
        return jax.tree.map(jnp.add, total, addend), sum_of(addend)

    return add


def _describe_non_finite(
    squares: Squares, selected: Params, params: Params, batch: Labelled, numbers: Array, key: jax.Array
) -> str:
    """Return a message that names the row (by its number in `numbers` [B]) and leaf of a batch that are not finite."""
    of_row = jax.jit(squares)
    for at in np.flatnonzero(row_weight(batch.weight) > 0):
        row = jax.tree.map(lambda values, at=at: values[at : at + 1], batch)
        leaves = flatten(of_row(selected, params, row, key))
        if bad := [path for path, leaf in leaves.items() if not bool(jnp.isfinite(leaf).all())]:
            return (
                f"the Fisher information is not finite: the squared gradient of row {numbers[at]} overflows or is "
                f"not a number at {bad[0]} (and {len(bad) - 1} more leaves). Check that the checkpoint is intact"
            )
    return "the Fisher information is not finite: the sum over a batch overflows. Check that the checkpoint is intact"
