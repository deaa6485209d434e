"""The train step: pure, compiled, donated."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from fft.core.batch import Batch, Labelled, Outputs, Read, weight_of, weighted_sum
from fft.core.brief import brief
from fft.core.naming import numbered
from fft.core.network import Network, outputs_of
from fft.core.programs import shared
from fft.core.tree import Params, flatten, map_leaves, without_heads
from fft.methods import Method, StepContext
from fft.methods.parts import updates_of
from fft.tasks import Task
from fft.training.average import averaged
from fft.training.dual import Dual, Seen, Watch
from fft.training.state import TrainState

STREAMS, PROBE = ("new", "original", "unlabelled"), "probe"
MOST_STEPS = 2**31


class Slope(NamedTuple):
    """Losses and gradients of a step's forward and backward pass over the rows of one stream."""

    loss: jax.Array
    """mean nll of the new task, 0 for other streams; []"""
    term: jax.Array
    """mean of the method's own terms, times m; []"""
    gradient: dict[str, jax.Array]
    """of loss + term, for the trained leaves, by path"""
    __repr__ = brief


Streams = Mapping[str, Labelled]
"""the rows of a step: arrays [A, B, ...] of every stream and of the probe, A micro-batches of B rows"""
TrainStep = Callable[[TrainState, Params, Params, Streams], tuple[TrainState, dict[str, jax.Array]]]
"""step(state, base, aux, batch) -> (state, metrics)"""
_Means = tuple[jax.Array, jax.Array]
_Slopes = dict[str, Slope]
_SlopeOf = Callable[[str, Params, Params, Params, Labelled, jax.Array, jax.Array, Dual], Slope]
_SlopesOf = Callable[[TrainState, Params, Params, Mapping[str, Labelled]], _Slopes]
_Look = Callable[[Params, Params, Labelled], Seen]
_Update = Callable[[TrainState, _Slopes, Seen | None, Params, Params], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: Network,
    task: Task,
    method: Method,
    tx: optax.GradientTransformation,
    multiplier: dict[str, float],
    original: Task | None = None,
    watch: Watch | None = None,
    schedule: optax.Schedule | None = None,
) -> TrainStep:
    """Return `step(state, base, aux, batch) -> (state, metrics)` of a method on a task; `state` is donated.

    `batch` holds {"new": arrays [A, B, ...]}, A micro-batches whose gradients are accumulated, and the same for every
    stream that the method reads. `original` is the original task, for methods that need to know its head. With the
    method's own terms t of a stream's rows the objective is

        Σ weight · nll / Σ weight over the new targets  +  m · ( Σ_streams Σ w t / Σ w  +  penalty(merged parameters) )

    with the weights w of fft.core.batch.weight_of for terms of each shape. The descent direction is `method.combine` of
    the gradients of these parts, by default their sum. `tx` is a plain optax optimizer, which the method may wrap
    (`method.transform`). A leaf whose `multiplier` is 0 keeps its value bit for bit, whatever `tx` does. `schedule` is
    that of the learning rate in `tx`, for methods whose `decay` is scaled by it.

    m is 1 or, with a `watch`, follows the drop of the averaged weights on the rows of the batch "probe" (see
    fft.training.dual and fft.training.average).

    For a method with `Parts.climb` (such as SAM) the gradients of the rows are taken at the perturbed parameters, in a
    second pass over the same rows with the same dropout. The penalty's gradient, and all metrics but grad_norm, are
    those at theta.

    A step whose objective or gradient norm is not finite changes only the counters. `metrics` are scalars: loss (of the
    new task alone), penalty (everything else), grad_norm (over trained leaves, before clipping), skipped_in_a_row, and
    with a watch strength (m) and drop (on the probe's rows; drop_2, … for further original tasks).

    There is one compiled program for each stream and padded length T, and one for penalty and update, which do not
    depend on T.

    Raises: TypeError for a method with a `decay` and no `schedule`.
    """
    if schedule is None and any(member.parts().decay for member in method.members):
        raise TypeError(f"{method.label} scales a decay by the learning rate: give make_train_step the schedule")
    trained = frozenset(path for path, value in multiplier.items() if value != 0.0)
    slopes_of = _make_slopes(_make_slope(model, task, method, trained, original), method)
    update = _make_update(method, tx, tuple(multiplier.items()), watch, schedule or _no_rate)

    look = None if watch is None else _make_look(model, method, watch)

    def step(state: TrainState, base: Params, aux: Params, batch: Streams) -> tuple[TrainState, dict[str, jax.Array]]:
        slopes = slopes_of(state, base, aux, {stream: rows for stream, rows in batch.items() if stream != PROBE})
        seen = None if look is None else look(state.result, base, jax.tree.map(lambda x: x[0], batch[PROBE]))
        return update(state, slopes, seen, base, aux)

    return step


def _make_look(model: Network, method: Method, watch: Watch) -> _Look:
    @jax.jit
    def look(result: Params, base: Params, rows: Batch, before: jax.Array) -> Seen:
        outputs = outputs_of(model, method.merge(base, result), rows, read=(watch.task.reads,))
        return watch.look(outputs, rows, before[rows.row])

    return partial(look, before=watch.before)


def _make_slopes(slope: _SlopeOf, method: Method) -> _SlopesOf:
    @jax.jit
    def climb(theta: Params, slopes: _Slopes) -> Params:
        return method.climb(theta, method.combine(_gradients(slopes)))

    def slopes_of(state: TrainState, base: Params, aux: Params, batch: Streams) -> _Slopes:
        """Return the Slope of every stream of a step."""

        def at(theta: Params) -> _Slopes:
            return {
                stream: slope(stream, theta, base, aux, rows, state.key, state.step, state.dual)
                for stream, rows in batch.items()
            }

        slopes = at(state.theta)
        if not method.climbs:
            return slopes
        above = at(climb(state.theta, slopes))
        return {stream: each._replace(gradient=above[stream].gradient) for stream, each in slopes.items()}

    return slopes_of


@shared
def _make_slope(model: Network, task: Task, method: Method, trained: frozenset[str], original: Task | None) -> _SlopeOf:
    known = cast("Task", original)  # a method whose loss reads the original task is only run with one

    def mean_loss(
        theta: Params,
        base: Params,
        aux: Params,
        stream: str,
        micro: Labelled,
        whole: Labelled,
        key: jax.Array,
        step: jax.Array,
        strength: jax.Array,
    ) -> tuple[jax.Array, _Means]:
        inject_key, apply_key = jax.random.split(key)
        now = StepContext(base, aux, step, strength=strength)
        micro = method.inputs(now, stream, cast("Batch", micro))  # or any other rows that model and methods accept
        read: set[Read] = {task.reads} if stream == "new" else set()
        if stream in method.loss_streams:
            read |= {"pooled"} if original is None else {"pooled", original.reads}
        params = method.inject(now, theta, inject_key)
        outputs = _outputs(model, method, stream, base, params, micro, apply_key, read, original)
        loss = weighted_sum(task.terms(outputs, micro), micro.weight) if stream == "new" else jnp.zeros(())
        term = strength * _summed_terms(method.losses(now, stream, outputs, micro, known), micro, whole)
        # Divided here and not in the gradient, which would take another pass over an array for each parameter.
        weight = jnp.sum(whole.weight)
        return (loss + term) / weight, (loss / weight, term / weight)

    @partial(jax.jit, static_argnums=0)
    def slope(
        stream: str,
        theta: Params,
        base: Params,
        aux: Params,
        batch: Labelled,
        key: jax.Array,
        step: jax.Array,
        dual: Dual,
    ) -> Slope:
        """Return the Slope of one stream's micro-batches of a step."""
        if stream != "new":  # each stream has its own random draws
            key = jax.random.fold_in(key, MOST_STEPS + STREAMS.index(stream))
        key = jax.random.fold_in(key, step)
        backward = partial(jax.grad(mean_loss, has_aux=True), step=step, strength=jnp.exp(dual.log_strength))
        micros = batch.weight.shape[0]
        whole = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        if micros == 1:
            grads, means = backward(theta, base, aux, stream, jax.tree.map(lambda x: x[0], batch), whole, key=key)
        else:

            def add(
                total: tuple[Params, _Means], micro_and_index: tuple[Labelled, jax.Array]
            ) -> tuple[tuple[Params, _Means], None]:
                micro, index = micro_and_index
                more = backward(theta, base, aux, stream, micro, whole, key=jax.random.fold_in(key, index))
                return jax.tree.map(jnp.add, total, more), None

            zero = jnp.zeros(())
            zeros = (jax.tree.map(jnp.zeros_like, theta), (zero, zero))
            (grads, means), _ = jax.lax.scan(add, zeros, (batch, jnp.arange(micros)))
        loss, term = means
        return Slope(loss, term, {path: g for path, g in flatten(grads).items() if path in trained})

    return slope


def _summed_terms(terms: Sequence[jax.Array], micro: Labelled, whole: Labelled) -> jax.Array:
    """Return Σ w t over a micro-batch for terms of the targets' shape. Terms of another shape are rescaled, so that
    their sum over all micro-batches divided by the targets' Σ weight is their own mean.

    `whole` is all micro-batches of the step, [A · B, ...].
    """
    total, same = jnp.zeros(()), micro.weight.ndim
    for axes in sorted({term.ndim for term in terms}):
        first, *others = (term for term in terms if term.ndim == axes)
        more = weighted_sum(sum(others, first), weight_of(axes, micro))
        total += more if axes == same else more * (jnp.sum(whole.weight) / jnp.sum(weight_of(axes, whole)))
    return total


def _outputs(
    model: Network,
    method: Method,
    stream: str,
    base: Params,
    params: Params,
    micro: Labelled,
    key: jax.Array,
    read: set[Read],
    original: Task | None,
) -> Outputs:
    """Return the model's outputs on a stream's rows, with the base's if the method compares with them in every step:
    all layers, or predictions of the `original` task that cannot be stored.
    """
    layers = tuple(range(len(base["layers"]) + 1)) if stream in method.layer_streams else ()
    outputs = outputs_of(model, params, micro, read=read, key=key, layers=layers)
    if layers or (stream in method.teacher_streams and original is not None and not original.stores):
        return outputs._replace(base=outputs_of(model, base, micro, read=read, layers=layers))
    return outputs


def _gradients(slopes: _Slopes) -> dict[str, dict[str, jax.Array]]:
    """Return the gradient of each stream's mean objective, by path."""
    return {stream: slope.gradient for stream, slope in slopes.items()}


def _no_rate(step: object) -> float:
    """Return 0: the schedule for methods that do not use the learning rate."""
    return 0.0


@shared
def _make_update(
    method: Method,
    tx: optax.GradientTransformation,
    multipliers: tuple[tuple[str, float], ...],
    watch: Watch | None,
    schedule: optax.Schedule,
) -> _Update:
    multiplier = dict(multipliers)

    def penalty_of(theta: Params, now: StepContext) -> jax.Array:
        return now.strength * jnp.asarray(method.penalty(now, method.merge(now.base, theta)), jnp.float32)

    def is_trained(path: str) -> bool:
        return multiplier[path] != 0.0

    # Where a method adds no terms that m could scale, the contract is enforced by smaller updates.
    slows = watch is not None and not method.adds

    @partial(jax.jit, donate_argnums=0)
    def update(
        state: TrainState, slopes: _Slopes, seen: Seen | None, base: Params, aux: Params
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Return the state after one step, and the metrics, from the slopes of its streams and the probe."""
        loss = slopes["new"].loss
        strength = jnp.exp(state.dual.log_strength)
        rate = jnp.asarray(schedule(state.step))
        now = StepContext(base, aux, state.step, lambda path: rate * multiplier[path], is_trained, strength)
        penalty, pull = jax.value_and_grad(lambda theta: penalty_of(theta, now))(state.theta)
        penalty += sum(slope.term for slope in slopes.values())
        pull = flatten(pull)
        grads = method.combine({"penalty": {path: pull[path] for path in slopes["new"].gradient}, **_gradients(slopes)})
        grad_norm = optax.tree.norm(grads)
        # The gradient of frozen leaves was never computed.
        whole = map_leaves(lambda path, leaf: grads.get(path, jnp.zeros_like(leaf)), state.theta)

        def take() -> tuple[optax.Params, optax.OptState]:
            # Built here, because statistics that a transform closes over outside would be constants of the program.
            updates, opt_state = updates_of(method.transform(tx, now), whole, state.opt_state, state.theta)
            updates = map_leaves(lambda path, u: u if is_trained(path) else jnp.zeros_like(u), updates)
            if slows:
                updates = jax.tree.map(lambda u: u / jnp.maximum(strength, 1.0), updates)
            return optax.apply_updates(state.theta, updates), opt_state

        finite = jnp.isfinite(loss) & jnp.isfinite(penalty) & jnp.isfinite(grad_norm)
        # `cond` rather than `where`: a select would make XLA keep a copy of the old state.
        theta, opt_state = jax.lax.cond(finite, take, lambda: (state.theta, state.opt_state))
        missed = 1 - finite.astype(jnp.int32)
        in_a_row = (state.skipped_in_a_row + 1) * missed
        metrics = {"loss": loss, "penalty": penalty, "grad_norm": grad_norm, "skipped_in_a_row": in_a_row}
        dual, average = state.dual, state.average
        if watch is not None:
            assert seen is not None and average is not None  # a run under a contract has both
            drops = jnp.ravel(seen.drop / seen.weight)
            metrics |= {"strength": strength, **dict(zip(numbered("drop", drops.size), drops, strict=True))}
            dual, average = watch.advance(dual, seen), averaged(average, theta, state.step)
        skipped = state.skipped + missed
        return TrainState(state.step + 1, theta, opt_state, state.key, skipped, in_a_row, dual, average), metrics

    return update


def finished_params(method: Method, base: Params, theta: Params, fresh_heads: tuple[str, ...]) -> Params:
    """Return the merged parameters of a trained tree, after the method's `finish`.

    `finish` gets the base without its fresh heads: they started from noise, which is no value to go back to.
    """
    return method.finish(without_heads(base, fresh_heads), method.merge(base, theta))
