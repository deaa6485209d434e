"""Parts: the description of a method as data. A slot that a method leaves out stays as in full fine-tuning."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, cast

import jax

from fft.core.batch import Batch, Outputs
from fft.core.tree import Params, Rules
from fft.methods.context import Context
from fft.methods.trees import Tree
from fft.tasks import Task

if TYPE_CHECKING:
    import optax  # at run time its import would take a seventh of `fft tune --help`

State = TypeVar("State")
Gradients = Mapping[str, dict[str, jax.Array]]
"""{part of the objective, "penalty" or a stream: {path: gradient of a mean}}"""
NOTHING: Mapping = MappingProxyType({})


class StepContext(NamedTuple):
    """The inputs of a method's functions in a training step, inside jit."""

    base: Params
    """the parameters before step 1, including every head"""
    aux: Params = {}  # noqa: RUF012  # read only
    """the result of the method's `prepare`"""
    step: jax.Array | int = 0
    """int32 [], the number of steps before this one"""
    rate: Callable[[str], jax.Array | float] = lambda path: 0.0
    """rate(path): the learning rate of a leaf in this step, []"""
    is_trained: Callable[[str], bool] = lambda path: True
    """is_trained(path): whether the run trains this leaf; the gradients and updates of other leaves are 0"""
    strength: jax.Array | float = 1.0
    """float32 [], the multiplier of the method's own terms under a contract; 1 without one"""


Need = Literal["original", "head"]


class Parts(NamedTuple):
    """What a method does, slot by slot. [Brackets] say how a chain combines the slots of its members.

    `now` is the StepContext of the step; paths are those of the parameters; gradients, updates and theta have the same
    tree structure. Streams are "new", "original" and "unlabelled".
    """

    tree: Tree | None = None
    """the trainable tree [one per chain; members may share the same one]"""
    rules: Callable[[Iterable[str], int], Rules] | None = None
    """rules(paths, depth) -> path patterns and learning-rate multipliers, 0 = frozen, 1 where no rule matches
    [multiplied]"""
    lr: float | None = None
    """the default learning rate, for AdamW [the first one]"""
    needs: frozenset[Need] = frozenset()
    """"original": rows of the original task besides those of its stream; "head": a head of the base [union]"""
    streams: Mapping[str, float] = NOTHING
    """{stream: rows per new row in a step} [maximum per stream]"""
    layers: frozenset[str] = frozenset()
    """the streams whose losses need the hidden states of every layer: outputs.states.layers, and those of the base
    without dropout, outputs.base.states.layers [union]"""
    teaches: frozenset[str] = frozenset()
    """the streams whose losses compare the original head's predictions with the base's, see fft.methods.kl [union]"""
    check: Callable[[Context], None] | None = None
    """check(context) rejects what does not fit the base or the original task, before a run writes anything [all]"""
    prepare: Callable[[Context, jax.Array], Params] | None = None
    """prepare(context, key) -> arrays, computed once before step 1 and stored with the run: `now.aux` [separate]"""
    inputs: Mapping[str, Callable[[StepContext, Batch], Batch]] = NOTHING
    """{stream: inputs(now, batch) -> the batch that the model reads instead} [no other member may read the stream]"""
    mix: Callable[[StepContext, Params, jax.Array], Params] | None = None
    """mix(now, params, key) -> the parameters that the model uses in a training step instead [in order]"""
    losses: Mapping[str, Callable[[StepContext, Outputs, Batch, Task], jax.Array]] = NOTHING
    """{stream: loss(now, outputs, batch, task) -> terms per row, [B], or per token, [B, T]}; their weighted mean joins
    the objective; `task` is the original task, which names its head [added]"""
    by_token: frozenset[str] = frozenset()
    """the streams whose losses have one term for each target of a language task and read nothing by `batch.row`, so
    that several texts may be packed into a row [the streams of all members' losses]"""
    penalty: Callable[[StepContext, Params], jax.Array] | None = None
    """penalty(now, params) -> a scalar added to the mean loss, a function of the MERGED parameters [added]"""
    pull: Callable[[StepContext], tuple[jax.Array | float, Params]] | None = None
    """pull(now) -> (λ, w): the penalty  λ Σ w ⊙ (θ − θ*)²  over the MERGED parameters in w; a method with only
    this slot needs a run that trains some of the base's parameters [added]"""
    combine: Callable[[Gradients], dict[str, jax.Array]] | None = None
    """combine(gradients) -> the gradient that is descended, {path: array}, instead of their sum; for `climb` it gets no
    penalty gradient [one per chain; no other member may read its streams]"""
    climb: Callable[[Params, Mapping[str, jax.Array]], Params] | None = None
    """climb(theta, gradient) -> the point at which a second pass evaluates the gradients of the rows; `gradient` is
    theirs at theta [in order]"""
    decay: Callable[[StepContext, Params, Params], Params] | None = None
    """decay(now, updates, theta) -> the updates plus a pull that is decoupled from the optimizer; the method multiplies
    the pull by `now.strength` [in order, after the optimizer]"""
    wrap: Callable[["optax.GradientTransformation", StepContext], "optax.GradientTransformation"] | None = None
    """wrap(tx, now) -> the wrapped optimizer. Read `now` only in `update`: its arrays are traced, and missing when a
    saved state is restored [nested in order]"""
    confine: Callable[["optax.GradientTransformation", StepContext], "optax.GradientTransformation"] | None = None
    """like `wrap`; constrains every update [one per chain, because two would undo each other; around all `wrap`]"""
    observe: Callable[["optax.GradientTransformation", StepContext], "optax.GradientTransformation"] | None = None
    """like `wrap`; observes the updates as they are applied [around all others]"""
    leave: Callable[["optax.OptState"], Params] | None = None
    """leave(opt_state) -> arrays that later runs read, from the optimizer's state at the step that becomes the model
    [separate]"""
    finish: Callable[[Params, Params], Params] | None = None
    """finish(base, params) -> the parameters that are scored and saved, from the MERGED ones; outside the step; `base`
    lacks fresh heads [in order]"""

    @property
    def only_pulls(self) -> bool:
        """Whether the method has no effect on training but its `pull`."""
        others = self._replace(pull=None, lr=None, needs=frozenset(), check=None, prepare=None)
        return self.pull is not None and others == Parts()


def updates_of(
    tx: "optax.GradientTransformation", gradients: Params, state: "optax.OptState", params: Params
) -> tuple[Params, "optax.OptState"]:
    """Return the optimizer's updates for some gradients, in the same tree structure, and its next state."""
    return cast("tuple[Params, optax.OptState]", tx.update(gradients, state, params))


def transformation(
    init: Callable[[Params], State], update: Callable[[Params, State, Params], tuple[Params, State]]
) -> "optax.GradientTransformation":
    """Build an optimizer from `init(params)` and `update(gradients, state, params)`; `params` must never be None."""
    import optax

    return optax.GradientTransformation(cast("optax.TransformInitFn", init), cast("optax.TransformUpdateFn", update))
