"""What a method says, as data: Parts. A slot that a method leaves out stays as in full fine-tuning."""

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
    import optax  # a seventh of the time that `fft tune --help` takes

State = TypeVar("State")
Gradients = Mapping[str, dict[str, jax.Array]]
"""the gradients of the parts of the objective, "penalty" and the streams, each {path: gradient of a mean}"""
NOTHING: Mapping = MappingProxyType({})


class StepContext(NamedTuple):
    """What the functions of a method may look at in a training step, inside jit."""

    base: Params
    """the parameters before step 1, every head included"""
    aux: Params = {}  # noqa: RUF012  # read only
    """what the method's `prepare` returned"""
    step: jax.Array | int = 0
    """int32 [], the steps taken before this one"""
    rate: Callable[[str], jax.Array | float] = lambda path: 0.0
    """rate(path): this step's learning rate of a leaf, []"""
    is_trained: Callable[[str], bool] = lambda path: True
    """whether the run trains the leaf of this path; gradient and update of others are 0"""
    strength: jax.Array | float = 1.0
    """float32 [], what a contract multiplies the method's own terms by; 1 without a contract"""


Need = Literal["original", "head"]


class Parts(NamedTuple):
    """What a method says. How a chain puts the parts of its members together stands behind each slot.

    `now` is the StepContext of the step; paths are those of the parameters; a gradient, an update and theta share
    one tree. Streams are "new", "original" and "unlabelled".
    """

    tree: Tree | None = None
    """what is trained [one per chain; members with the same one agree]"""
    rules: Callable[[Iterable[str], int], Rules] | None = None
    """rules(paths, depth) -> path patterns and learning-rate multipliers, 0 = frozen; paths that no rule matches have 1
    [multiply]"""
    lr: float | None = None
    """the learning rate where none is given, of AdamW [the first that has one]"""
    needs: frozenset[Need] = frozenset()
    """"original": rows of the original task beside those of its stream; "head": a head of the base [union]"""
    streams: Mapping[str, float] = NOTHING
    """{stream: rows that a step reads for each new row} [the largest of each]"""
    layers: frozenset[str] = frozenset()
    """the streams whose losses see what every layer makes: outputs.states.layers, and the base's without dropout,
    outputs.base.layers [union]"""
    check: Callable[[Context], None] | None = None
    """check(context) refuses what does not fit the base or the original task, before a run writes anything [each]"""
    prepare: Callable[[Context, jax.Array], Params] | None = None
    """prepare(context, key) -> arrays, computed once before step 1 and stored with the run: `now.aux` [each its own]"""
    inputs: Mapping[str, Callable[[StepContext, Batch], Batch]] = NOTHING
    """{stream: inputs(now, batch) -> the rows that the model reads in place of the batch} [alone with its stream]"""
    mix: Callable[[StepContext, Params, jax.Array], Params] | None = None
    """mix(now, params, key) -> what the model sees in a training step in place of the parameters [in order]"""
    losses: Mapping[str, Callable[[StepContext, Outputs, Batch, Task], jax.Array]] = NOTHING
    """{stream: loss(now, outputs, batch, task) -> terms of its rows, [B], or of their tokens, [B, T]}; their weighted
    mean joins the objective; `task` is the original task, which names its head [add]"""
    penalty: Callable[[StepContext, Params], jax.Array] | None = None
    """penalty(now, params) -> a scalar added to the mean loss, as a function of the MERGED parameters [add]"""
    pull: Callable[[StepContext], tuple[jax.Array | float, Params]] | None = None
    """pull(now) -> (λ, w): the penalty  λ Σ w ⊙ (θ − θ*)²  of the MERGED parameters that w has; a method that says only
    this needs a run that trains some of the base's parameters [add]"""
    combine: Callable[[Gradients], dict[str, jax.Array]] | None = None
    """combine(gradients) -> the gradient that is descended, {path: array}, in place of their sum; asked without the
    penalty's for `climb` [one per chain, and alone with its streams]"""
    climb: Callable[[Params, Mapping[str, jax.Array]], Params] | None = None
    """climb(theta, gradient) -> where the gradients of the rows are taken, by a second pass; `gradient` is that of the
    rows at theta [in order]"""
    decay: Callable[[StepContext, Params, Params], Params] | None = None
    """decay(now, updates, theta) -> the updates with a pull of the method's own that is decoupled from the optimizer,
    and that it multiplies by `now.strength` [in order, behind the optimizer]"""
    wrap: Callable[["optax.GradientTransformation", StepContext], "optax.GradientTransformation"] | None = None
    """wrap(tx, now) -> the optimizer with something around it. `now` holds traced arrays and may be read in `update`
    alone: where a saved state is read there are none [nest in order]"""
    confine: Callable[["optax.GradientTransformation", StepContext], "optax.GradientTransformation"] | None = None
    """like `wrap`; keeps every update within bounds, which another such member would leave [one, around all `wrap`]"""
    observe: Callable[["optax.GradientTransformation", StepContext], "optax.GradientTransformation"] | None = None
    """like `wrap`; sees the updates as they are applied [around all others]"""
    leave: Callable[["optax.OptState"], Params] | None = None
    """leave(opt_state) -> arrays that later runs read of this one, from the optimizer's state at the step that is kept
    [each its own]"""
    finish: Callable[[Params, Params], Params] | None = None
    """finish(base, params) -> the parameters that are scored and kept, from the MERGED ones; outside the step; `base`
    lacks fresh heads [in order]"""

    @property
    def only_pulls(self) -> bool:
        """Whether its `pull` is all that the method does in a run."""
        others = self._replace(pull=None, lr=None, needs=frozenset(), check=None, prepare=None)
        return self.pull is not None and others == Parts()


def updates_of(
    tx: "optax.GradientTransformation", gradients: Params, state: "optax.OptState", params: Params
) -> tuple[Params, "optax.OptState"]:
    """The updates that an optimizer makes of gradients, in the same tree, and its next state."""
    return cast("tuple[Params, optax.OptState]", tx.update(gradients, state, params))


def transformation(
    init: Callable[[Params], State], update: Callable[[Params, State, Params], tuple[Params, State]]
) -> "optax.GradientTransformation":
    """The optimizer of `init(params)` and `update(gradients, state, params)`, which is always given the parameters."""
    import optax

    return optax.GradientTransformation(cast("optax.TransformInitFn", init), cast("optax.TransformUpdateFn", update))
