"""The base class of all methods; combines the parts of a chain's members."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import jax
from annotated_types import Interval

from fft.core.batch import Batch, Outputs
from fft.core.bounds import check_bounds
from fft.core.computation import widened
from fft.core.tree import Params
from fft.disk.local import make_local
from fft.methods.context import Context
from fft.methods.parts import Gradients, Need, Parts, StepContext, transformation, updates_of
from fft.methods.sums import squared_distance, summed
from fft.methods.trees import BASE_TREE, Tree
from fft.tasks import Task

if TYPE_CHECKING:
    import optax


Ratio = Annotated[float, Interval(gt=0, le=16)]
"""rows of a stream per row of the new task in a step"""
DEFAULT_LR = 5e-5


@dataclasses.dataclass(frozen=True)
class Method:
    """A fine-tuning method. Its fields are its settings; `parts` describes what it does with them.

    The other functions are the same for every method: they combine the parts of the members. A method that is not a
    chain has itself as its only member.
    """

    name: ClassVar[str]
    chained: ClassVar[Callable[..., "Method"]]
    """builds a chain of methods; set by fft.methods.chain, which imports this class"""
    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_bounds(self, f"{self.name}.")
        make_local(self, f"{self.name}.")

    def parts(self) -> Parts:
        """Return what the method does."""
        return Parts()

    def continued(self, run: str | None, fisher: str | None) -> "Method":
        """Return the method for a run that starts from the model of the finished `run`.

        `fisher` is the folder of the Fisher information of all earlier tasks. Without a `run` this is the first run;
        without a `fisher` the run measures its own.
        """
        return self

    @property
    def label(self) -> str:
        """The name of the method in tables and logs."""
        return self.name

    @property
    def members(self) -> tuple["Method", ...]:
        """The methods of which this one is composed."""
        return (self,)

    @property
    def tree(self) -> Tree:
        """The trainable tree and how parameters are made from it."""
        return next((parts.tree for parts in self._parts() if parts.tree is not None), BASE_TREE)

    @property
    def owner(self) -> "Method":
        """The member that sets the trainable tree, else the one that sets the learning rate, else the first."""
        candidates = [
            [m for m in self.members if m.parts().tree not in (None, BASE_TREE)],
            [m for m in self.members if m.parts().lr is not None],
            self.members,
        ]
        return next(filter(None, candidates))[0]

    @property
    def lr(self) -> float:
        """The default learning rate."""
        return next((parts.lr for parts in self._parts() if parts.lr is not None), DEFAULT_LR)

    @property
    def needs(self) -> frozenset[Need]:
        """What a run needs besides the new task: rows of the original task, a head of the base."""
        rows: frozenset[Need] = frozenset({"original"} if "original" in self.streams else ())
        return rows.union(*(parts.needs for parts in self._parts()))

    @property
    def streams(self) -> dict[str, float]:
        """The streams that a step reads besides the new task's batch: {stream: rows per new row}.

        Members that read the same stream share its rows; the largest number counts.
        """
        read = [pair for parts in self._parts() for pair in parts.streams.items()]
        return {name: max(share for other, share in read if other == name) for name, _ in read}

    @property
    def layer_streams(self) -> frozenset[str]:
        """The streams for whose rows a loss needs the hidden states of every layer."""
        return frozenset[str]().union(*(parts.layers for parts in self._parts()))

    @property
    def teacher_streams(self) -> frozenset[str]:
        """The streams for whose rows a loss compares predictions with the base's."""
        return frozenset[str]().union(*(parts.teaches for parts in self._parts()))

    @property
    def loss_streams(self) -> frozenset[str]:
        """The streams on whose rows a member has a loss."""
        return frozenset(stream for parts in self._parts() for stream in parts.losses)

    @property
    def row_losses(self) -> dict[str, str]:
        """The streams on whose rows a member has a loss, or puts others in their place, that is not `by_token`, with
        the first such member's name.
        """
        by_row = [(m, {*m.parts().losses, *m.parts().inputs} - m.parts().by_token) for m in reversed(self.members)]
        return {stream: member.name for member, streams in by_row for stream in streams}

    @property
    def adds(self) -> bool:
        """Whether a member adds a term whose strength a contract can multiply.

        The terms of a method that combines gradients do not count: only the direction of their gradient matters.
        """
        return any(
            parts.penalty or parts.pull or parts.decay or (parts.losses and not parts.combine)
            for parts in self._parts()
        )

    @property
    def climbs(self) -> bool:
        """Whether a member evaluates the gradients of the rows at another point than theta."""
        return any(parts.climb for parts in self._parts())

    def check(self, context: Context) -> None:
        """Reject what does not fit the base or the original task, and note warnings in the context.

        Raises: InputError.
        """
        for parts in self._parts():
            if parts.check is not None:
                parts.check(context)

    def prepare(self, context: Context, key: jax.Array) -> Params:
        """Compute statistics of the base and the original task once, as arrays that are stored with the run.

        For a chain: {name of a member: its statistics}.
        """
        keys = [key] if len(self.members) == 1 else jax.random.split(key, len(self.members))
        statistics = {
            member.name: prepare(context, key)
            for member, key in zip(self.members, keys, strict=True)
            if (prepare := member.parts().prepare) is not None
        }
        return self._by_member(statistics)

    def init(self, base: Params, key: jax.Array) -> Params:
        """Return the trainable tree theta at step 0, in float32; a copy, because training donates it."""
        return self.tree.init(widened(base), key)

    def merge(self, base: Params, theta: Params) -> Params:
        """Return the base model's parameters with theta merged into them."""
        return self.tree.merge(base, theta)

    def inject(self, now: StepContext, theta: Params, key: jax.Array) -> Params:
        """Return the parameters that the model uses in a training step; `key` is for the methods' draws."""
        inject = self.tree.inject
        params = self.tree.merge(now.base, theta) if inject is None else inject(now.base, theta, key)
        for at, (own, parts) in enumerate(self._in_step(now)):
            if parts.mix is not None:
                params = parts.mix(own, params, jax.random.fold_in(key, at))
        return params

    def inputs(self, now: StepContext, stream: str, batch: Batch) -> Batch:
        """Return the batch that the model reads in place of a stream's batch."""
        for own, parts in self._in_step(now):
            if stream in parts.inputs:
                batch = parts.inputs[stream](own, batch)
        return batch

    def losses(
        self, now: StepContext, stream: str, outputs: Outputs, batch: Batch, task: Task
    ) -> tuple[jax.Array, ...]:
        """Return the loss terms of the members for the rows of a stream, "new" or one of `streams`.

        Each is [B], one per row, or [B, T], one per token. `outputs` are the model's for `batch`; `batch.row` int32 [B]
        are the indices of the rows in the stream's training rows.
        """
        return tuple(
            parts.losses[stream](own, outputs, batch, task)
            for own, parts in self._in_step(now)
            if stream in parts.losses
        )

    def penalty(self, now: StepContext, params: Params) -> jax.Array | float:
        """Return the scalar that is added to the mean loss, a function of the MERGED parameters."""
        total: jax.Array | float = 0.0
        for own, parts in self._in_step(now):
            if parts.penalty is not None:
                total += parts.penalty(own, params)
            if parts.pull is not None:
                scale, weights = parts.pull(own)
                total += scale * squared_distance(weights, now.base, params)
        return total

    def combine(self, gradients: Gradients) -> dict[str, jax.Array]:
        """Combine the gradients of the parts of the objective into the one that is descended: {path: array}.

        The parts are "penalty" and the streams of the step, including "new"; each is the gradient of a mean.
        """
        return next((parts.combine for parts in self._parts() if parts.combine is not None), summed)(gradients)

    def climb(self, theta: Params, gradient: Mapping[str, jax.Array]) -> Params:
        """Return where to evaluate the gradients of the rows; `gradient` is the combined one of the rows at theta."""
        for parts in self._parts():
            if parts.climb is not None:
                theta = parts.climb(theta, gradient)
        return theta

    def transform(self, tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
        """Wrap the optimizer with the transformations of the members."""
        members = list(self._in_step(now))
        for own, parts in members:
            tx = tx if parts.wrap is None else parts.wrap(tx, own)
        for own, parts in members:
            tx = tx if parts.decay is None else _decaying(tx, partial(parts.decay, own))
        for own, parts in members:
            tx = tx if parts.confine is None else parts.confine(tx, own)
        for own, parts in members:
            tx = tx if parts.observe is None else parts.observe(tx, own)
        return tx

    def leave(self, opt_state: "optax.OptState") -> Params:
        """Return the arrays that later runs read, from the optimizer's state at the step that becomes the model."""
        return self._by_member({m.name: leave(opt_state) for m in self.members if (leave := m.parts().leave)})

    def finish(self, base: Params, params: Params) -> Params:
        """Return the parameters that are scored and saved, from the MERGED ones; `base` lacks fresh heads."""
        for parts in self._parts():
            if parts.finish is not None:
                params = parts.finish(base, params)
        return params

    def __add__(self, other: "Method") -> "Method":
        """Chain two methods, as in `LoRA() + EWC()`."""
        return Method.chained(*self.members, *other.members)

    def _parts(self) -> Iterator[Parts]:
        return (member.parts() for member in self.members)

    def _in_step(self, now: StepContext) -> Iterator[tuple[StepContext, Parts]]:
        """Yield each member's step context, with its own statistics, and its parts."""
        if len(self.members) == 1:
            yield now, self.parts()
        else:
            for member in self.members:
                yield now._replace(aux=now.aux.get(member.name, {})), member.parts()

    def _by_member(self, trees: dict[str, Params]) -> Params:
        """Return the non-empty trees of a chain's members by name, or the tree of a single method itself."""
        if len(self.members) == 1:
            return next(iter(trees.values()), {})
        return {name: tree for name, tree in trees.items() if tree}


def _decaying(
    tx: "optax.GradientTransformation", decay: Callable[[Params, Params], Params]
) -> "optax.GradientTransformation":
    """Wrap `tx`: its updates pass through `decay(updates, theta)`."""

    def update(gradients: Params, state: "optax.OptState", params: Params) -> tuple[Params, "optax.OptState"]:
        updates, state = updates_of(tx, gradients, state, params)
        return decay(updates, params), state

    return transformation(tx.init, update)
