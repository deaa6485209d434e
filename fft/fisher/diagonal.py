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

from fft.core.batch import Array, Labelled, row_weight
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
    logits_of,
    read_by,
    squares_of,
    zeros_like,
)
from fft.tasks import Task

MOST_DRAWS = 10_000  # they are drawn, and held, all at once
MOST_EXACT = 1_000  # backward passes a batch
FEWEST_BATCHES = 8  # before the trace over batches is said to have converged


@dataclass(frozen=True)
class FisherPass:
    """How the Fisher information is estimated, and from how much."""

    estimator: Literal["exact", "mc", "empirical", "gnb", "batched"] = "mc"
    """whose labels: drawn from the model (mc), all of them weighted by the model (exact), the data's (empirical, not
    the Fisher); gnb squares a batch's gradient for drawn labels, batched for the data's (to reproduce such code)"""
    samples: Count = 512
    """original training rows the Fisher pass reads, chosen by the seed"""
    draws: Annotated[int, Interval(ge=1, le=MOST_DRAWS)] = 1
    """labels drawn per row by `mc` and `gnb`"""
    batch_size: Count = 32
    """rows of one forward pass"""
    way: Literal["fused", "vmapped"] = "fused"
    """one backward pass a batch, or vmap(grad) over `chunk` rows at a time, which works for any model"""
    chunk: Count = 1
    """rows whose gradients `vmapped` holds at once"""
    converged: Share = 0.0
    """stop before `samples` once the 95 % half-width of the trace over batches is this share of it; 0 reads them all"""

    def __post_init__(self) -> None:
        check_bounds(self)


class Fisher(NamedTuple):
    """The diagonal, shaped like the parameters asked for, and what it was estimated from."""

    diagonal: Params
    estimator: str
    examples: int
    draws: int
    trace: float
    """Σ of the diagonal"""
    trace_error: float
    """the 95 % half-width of the trace over batches as a share of it; inf where the batches are fewer than 8"""
    __repr__ = brief


class Running(NamedTuple):
    """A pass on its way: what a later call needs to go on after a kill."""

    total: Params
    """Σ g² over the rows read, float32; the next batch donates it, so a copy must be taken to keep it"""
    rows: int
    """rows read, filler included"""
    examples: int
    traces: tuple[float, ...]
    """the trace of the mean over each batch's examples"""


def _check(estimator: str, way: str, task: Task, say: Callable[[str], None]) -> None:
    """Refuse what there is no such pass for, and warn of `batched`."""
    for what, value, known in (("estimator", estimator, ESTIMATORS), ("way", way, WAYS)):
        if value not in known:
            raise InputError(f"unknown Fisher {what} {value!r}; known are {', '.join(known)}")
    if estimator == "batched":
        say(
            "warning: the batched estimator squares a mean: its scale shrinks with the batch, and the best λ moves "
            "with it"
        )


def _check_passes(estimator: str, task: Task, batch: Labelled) -> None:
    """Refuse `exact` where a batch would take too many backward passes, one an output and target of a row."""
    passes = task.outputs * math.prod(batch.weight.shape[1:])
    if estimator == "exact" and passes > MOST_EXACT:
        of_targets = "" if batch.weight.ndim == 1 else f" at each of {batch.weight.shape[1]} tokens"
        raise InputError(
            f"exact would take {passes:,} backward passes a batch, one for each output of {task.name!r}{of_targets}; "
            "mc is unbiased and takes one for each draw"
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
    """The mean over examples of squared per-example gradients.

    `batches` are host batches (rows of weight 0 are filler); `where` says by path which leaves are asked for;
    `draws` labels a row are drawn by `mc` and `gnb`: row i draws its labels from fold_in(key, i). Two ways, one result
    beyond rounding: `fused` takes one backward pass a batch (fft.models.probes.fused) and knows the operations of this
    package's models; `vmapped` takes `vmap(grad)` over `chunk` rows at a time and works for any function.

    `watch` sees the pass after every batch; a pass that gets one of these as `start`, and the same batches from the
    first on, goes on behind it to the same bits. `converged` > 0 stops early, see `relative_error`. On a `mesh` every
    device takes its share of a batch's rows, and parameters that are sharded over the mesh stay so, as does the
    diagonal (see fft.fisher.sharding).

    Raises: InputError for an unknown estimator or way, for no examples, for `exact` with more than
    MOST_EXACT passes, for a model that the fused way does not cover, and for a gradient that is not finite, by
    `batch.row` and path. `say` is told of `batched`, of a
    trace of 0, and of an early stop.
    """
    _check(estimator, way, task, say)
    asked = unflatten({path: leaf for path, leaf in flatten(params).items() if where(path)})
    squares = squares_of(model, task, estimator=estimator, draws=draws, way=way, chunk=chunk)
    add = _adder(squares, mesh, asked, params, estimator)
    running = start or Running(zeros_like(asked), 0, 0, ())
    for batch in islice(batches, len(running.traces), None):
        size = len(batch.weight)
        in_order = batch._replace(row=np.arange(running.rows, running.rows + size, dtype=np.int32))
        _check_passes(estimator, task, batch)
        if not running.rows and way == "fused" and estimator in PER_EXAMPLE:
            from fft.models.probes.fused import refuse_raw_readers

            run = partial(logits_of, model, task, batch=batch)
            refuse_raw_readers(run, params, read_by(task, zeros_like(asked)), size)
        rows = split_rows(in_order, mesh) if mesh is not None else in_order
        total, trace = add(running.total, asked, params, rows, key)
        if not math.isfinite(trace):
            raise InputError(_blame(squares, asked, params, in_order, batch.row, key))
        real = int(np.sum(row_weight(batch.weight) > 0))
        traces = (*running.traces, float(trace) / max(real, 1))
        running = Running(total, running.rows + size, running.examples + real, traces)
        watch(running)
        if converged and relative_error(traces) <= converged:
            known = f"the trace is known to {relative_error(traces):.3g} of it"
            say(f"converged after {counted(running.examples, 'row')}: {known}")
            break
    if running.examples == 0:
        raise InputError("the Fisher information needs at least one example of the original task, got none")
    diagonal, trace = _finished(running.total, running.examples)
    trace = float(trace)
    if trace == 0:
        say(
            "warning: the Fisher information is 0 everywhere: the model is certain of every answer, and EWC will "
            "hold nothing"
        )
    drawn = draws if estimator in ("mc", "gnb") else 1
    return Fisher(diagonal, estimator, running.examples, drawn, trace, relative_error(running.traces))


@jax.jit
def _finished(total: Params, examples: int) -> tuple[Params, jax.Array | int]:
    """The diagonal and its trace. One program: on a mesh every sum is a collective, and many small ones in flight at
    once can wait for each other for ever on simulated devices.
    """
    diagonal = jax.tree.map(lambda leaf: leaf / examples, total)
    return diagonal, sum_of(diagonal)


def relative_error(traces: tuple[float, ...]) -> float:
    """The 95 % half-width of the mean of some batches' traces as a share of it: 1.96 sd / (√k mean).

    inf for fewer than FEWEST_BATCHES. The batches must come in random order, as those of `fft.data.streams` do.
    """
    if len(traces) < FEWEST_BATCHES or not sum(traces):
        return math.inf
    return 1.96 * float(np.std(traces, ddof=1)) / math.sqrt(len(traces)) / float(np.mean(traces))


def _adder(
    squares: Squares, mesh: jax.sharding.Mesh | None, asked: Params, params: Params, estimator: str
) -> Callable[[Params, Params, Params, Labelled, jax.Array], tuple[Params, jax.Array]]:
    """The compiled (total, asked, params, batch, key) -> (total + Σ_b g_b², its trace); `total` is donated."""
    if mesh is not None:
        if estimator in PER_BATCH:
            raise InputError(f"{estimator} squares a whole batch's gradient and takes one device; use mc or empirical")
        squares = sharded(squares, mesh, asked, params)
    return _adding(squares)


@shared
def _adding(squares: Squares) -> Callable[[Params, Params, Params, Labelled, jax.Array], tuple[Params, jax.Array]]:
    @partial(jax.jit, donate_argnums=0)
    def add(
        total: Params, asked: Params, params: Params, batch: Labelled, key: jax.Array
    ) -> tuple[Params, jax.Array | int]:
        more = squares(asked, params, batch, key)
        return jax.tree.map(jnp.add, total, more), sum_of(more)

    return add


def _blame(squares: Squares, asked: Params, params: Params, batch: Labelled, numbers: Array, key: jax.Array) -> str:
    """Which row, by its number [B], and which leaf of a batch is not finite, as a sentence."""
    of_row = jax.jit(squares)
    for at in np.flatnonzero(row_weight(batch.weight) > 0):
        row = jax.tree.map(lambda values, at=at: values[at : at + 1], batch)
        leaves = flatten(of_row(asked, params, row, key))
        if bad := [path for path, leaf in leaves.items() if not bool(jnp.isfinite(leaf).all())]:
            return (
                f"the Fisher information is not finite: the squared gradient of row {numbers[at]} overflows or is "
                f"not a number at {bad[0]} (and {len(bad) - 1} more leaves). Is the checkpoint whole?"
            )
    return "the Fisher information is not finite: the sum over a batch overflows. Is the checkpoint whole?"
