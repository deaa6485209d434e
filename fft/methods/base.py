"""The protocol every method follows, and what several of them share."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Outputs
from fft.core.errors import InputError
from fft.core.tree import Params, Rules, compile_pattern, flatten
from fft.methods.context import Context, Given
from fft.tasks import Task

if TYPE_CHECKING:
    import optax  # a seventh of the time that `fft tune --help` takes


MOST_RATIO = 16.0
"""rows of a stream that a step reads for each new row, at most"""

T = TypeVar("T")
State = TypeVar("State")


def by_settings(value: Callable[[Any], T]) -> T:
    """A class variable of a method that its settings decide: `value(method)`, asked anew whenever it is read.

    It is a property, but has the type of its value: most methods have a plain value in its place.
    """
    return cast("T", property(value))


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to fine-tune: hyper-parameters and pure functions, each the identity unless a method says otherwise.

    `theta` is the trainable tree. It has the base's own paths, so that one set of patterns speaks about both.
    """

    name: ClassVar[str]
    default_lr: ClassVar[float] = 5e-5
    reparametrizes: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    """whether it speaks about the base's own leaves, so that no member of its chain may replace the trainable tree"""
    confines: ClassVar[bool] = False
    """whether its transform keeps every update within bounds, which another such member would leave"""
    outermost: ClassVar[bool] = False
    """whether its transform looks at the update that is applied, so that those of all other members are inside"""
    holds_base: ClassVar[bool] = False
    """whether all it does is to hold the base's own parameters, so that it needs a run that trains some of them"""
    needs_original: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    """whether it keeps what a head of the base says"""
    plain: ClassVar[bool] = True
    """it ends in values of the base's own parameters, from which it starts; else the result is base and adapter"""
    chained: ClassVar[Callable[..., "Method"]]
    """makes a chain of methods; set by fft.methods.chain, which builds on this class"""
    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    @property
    def label(self) -> str:
        """What tables and logs call the method."""
        return self.name

    @property
    def streams(self) -> Mapping[str, float]:
        """What a step reads beside the new task's batch: {"original" or "unlabelled": rows of it for each new row}."""
        return {}

    @property
    def hidden(self) -> frozenset[str]:
        """The streams, "new" among them, on whose rows `loss` sees what every layer makes: outputs.states.layers, and
        what the base's do without dropout, outputs.base.layers, by depth as in fft.core.batch.States.
        """
        return frozenset()

    @property
    def members(self) -> tuple["Method", ...]:
        """The methods this one is composed of."""
        return (self,)

    @property
    def carrier(self) -> "Method":
        """The member that owns the trainable tree."""
        return self

    def continued(self, run: str | None, fisher: str | None) -> "Method":
        """The method for a run that starts from the model of the finished `run` (None: there is none before), where
        `fisher` is the folder of the Fisher information of all that came before (None: it measures its own).
        """
        return self

    def check(self, given: Given) -> tuple[str, ...]:
        """Refuse what does not fit the base or the original task. Returns notes for the run's record."""
        return ()

    def prepare(self, context: Context, key: jax.Array) -> Params:
        """Statistics of the base and the original task, as arrays; computed once, stored with the run."""
        return {}

    def init(self, base: Params, key: jax.Array) -> Params:
        """The trainable tree at step 0; a copy, because training donates it."""
        return jax.tree.map(jnp.copy, base)

    def merge(self, base: Params, theta: Params) -> Params:
        """The plain parameters that `theta` stands for; inside jit and grad."""
        return theta

    def inject(self, base: Params, theta: Params, key: jax.Array | None = None) -> Params:
        """What the model's apply sees in a training step; `key` draws the method's own dropout."""
        return self.merge(base, theta)

    def inputs(self, stream: str, batch: Batch, aux: Params) -> Batch:
        """What the model reads in place of a batch of a stream; inside jit. `batch.row` is as in `loss`."""
        return batch

    def penalty(self, base: Params, params: Params, aux: Params) -> jax.Array | float:
        """A scalar added to the mean loss, as a function of the MERGED parameters."""
        return 0.0

    def loss(self, stream: str, outputs: Outputs, batch: Batch, aux: Params, task: Task) -> jax.Array | float:
        """Terms of the rows of a stream, "new" or one of `streams`, whose weighted mean joins the objective: one a row
        [B], or one a token [B, T], as of a task that reads tokens; 0.0 for none.

        `outputs` are the model's on `batch`, whose `row` int32 [B] are the rows' places in the stream's training rows;
        `task` is the original task, which names its head.
        """
        return 0.0

    def losses(
        self, stream: str, outputs: Outputs, batch: Batch, aux: Params, task: Task
    ) -> tuple[jax.Array | float, ...]:
        """The `loss` of every member, each with the statistics that it prepared."""
        return (self.loss(stream, outputs, batch, aux, task),)

    def combine(self, gradients: Mapping[str, dict[str, jax.Array]]) -> dict[str, jax.Array]:
        """The gradient that is descended, of the trained leaves by path, from that of each part of the objective.

        The parts are "penalty" and the streams that the step reads, "new" among them; each is the gradient of a mean.
        For `climb` it is asked without the penalty.
        """
        return summed(gradients)

    def rules(self, paths: Iterable[str], depth: int) -> Rules:
        """Path pattern -> learning-rate multiplier, 0 for frozen; paths no rule matches have multiplier 1."""
        return ()

    def transform(self, tx: "optax.GradientTransformation", aux: Params) -> "optax.GradientTransformation":
        """The optimizer, wrapped. Called while the step is traced, so the numbers in `aux` are not known; and without
        any `aux` where a saved state is read, so the shape of its state must not depend on it.
        """
        return tx

    def leave(self, opt_state: "optax.OptState") -> Params:
        """What later runs read of this one, as arrays, from the optimizer's state at the step that is kept; stored with
        the run.
        """
        return {}

    def climb(self, theta: Params, gradient: Mapping[str, jax.Array]) -> Params:
        """Where the rows' gradients of a step are taken: θ itself, unless a method asks for a second pass elsewhere.

        `gradient` is that of the rows at θ, by path over the trained leaves, `combine`d and without the penalty's.
        """
        return theta

    def finish(self, base: Params, params: Params) -> Params:
        """The parameters that are scored and kept, from the MERGED ones; outside the step. `base` lacks fresh heads."""
        return params

    def __add__(self, other: "Method") -> "Method":
        """`LoRA() + EWC()`: both methods at once."""
        return Method.chained(*self.members, *other.members)


def claims_tree(method: Method) -> bool:
    """Whether a method says what the trainable tree is, or what parameters it stands for: `init`, `merge`, `inject`."""
    return any(getattr(type(method), slot) is not getattr(Method, slot) for slot in ("init", "merge", "inject"))


def combines(method: Method) -> bool:
    """Whether a method makes something other than the sum of the parts' gradients."""
    return type(method).combine is not Method.combine


def climbs(method: Method) -> bool:
    """Whether a method takes a step's gradients elsewhere than at theta."""
    return any(type(member).climb is not Method.climb for member in method.members)


def rewrites(method: Method) -> bool:
    """Whether a method gives the model other rows than a stream has."""
    return type(method).inputs is not Method.inputs


def summed(gradients: Mapping[str, dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """The sum of some parts' gradients, by path."""
    first, *others = gradients.values()
    return {path: sum((other[path] for other in others), g) for path, g in first.items()}


def leaf_sum(values: Iterator[jax.Array]) -> jax.Array:
    """The sum of some scalars, 0 when there are none."""
    return sum(values, jnp.zeros(()))


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


def copied_heads(base: Params) -> dict[str, jax.Array]:
    """Copies of every head's parameters by path: what an adapter trains whole beside its own."""
    return {path: jnp.copy(leaf) for path, leaf in flatten(base).items() if path.startswith("heads/")}


def trained_alone(name: str, pattern: str, paths: Iterable[str]) -> Rules:
    """The rules of a method that trains what `pattern` matches, and the heads, and nothing else.

    Errors: InputError where the pattern matches nothing below the heads.
    """
    compiled = compile_pattern(pattern)
    if not any(compiled.fullmatch(path) for path in paths if not path.startswith("heads/")):
        raise InputError(
            f"{name} chooses among the base's own parameters, and here are none that it would train: in a chain with a "
            "method that replaces the trainable tree, such as lora, it has nothing to say"
        )
    return ((pattern, 1.0), ("heads/.*", 1.0), (".*", 0.0))
