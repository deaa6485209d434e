"""The class of every method, and what the parts of a chain's members come to."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import jax
from annotated_types import Interval

from fft.core.batch import Batch, Outputs
from fft.core.bounds import check_bounds
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
"""rows of a stream that a step reads for each new row"""
DEFAULT_LR = 5e-5


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to fine-tune. Its fields are its settings; what it does with them it says in `parts`.

    All else here is the same for every method: what a run asks, answered by the parts of the members, of which a
    method that is no chain has one, itself.
    """

    name: ClassVar[str]
    chained: ClassVar[Callable[..., "Method"]]
    """makes a chain of methods; set by fft.methods.chain, which builds on this class"""
    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_bounds(self, f"{self.name}.")
        make_local(self, f"{self.name}.")

    def parts(self) -> Parts:
        """What the method says."""
        return Parts()

    def continued(self, run: str | None, fisher: str | None) -> "Method":
        """The method for a run that starts from the model of the finished `run` (None: there is none before), where
        `fisher` is the folder of the Fisher information of all that came before (None: it measures its own).
        """
        return self

    @property
    def label(self) -> str:
        """What tables and logs call the method."""
        return self.name

    @property
    def members(self) -> tuple["Method", ...]:
        """The methods that this one is composed of."""
        return (self,)

    @property
    def tree(self) -> Tree:
        """What is trained."""
        return next((parts.tree for parts in self._each() if parts.tree is not None), BASE_TREE)

    @property
    def owner(self) -> "Method":
        """The member that says what is trained, where one does: which parameters, or at which rate; else the first."""
        said = [
            [m for m in self.members if m.parts().tree not in (None, BASE_TREE)],
            [m for m in self.members if m.parts().lr is not None],
            self.members,
        ]
        return next(filter(None, said))[0]

    @property
    def lr(self) -> float:
        """The learning rate where none is given."""
        return next((parts.lr for parts in self._each() if parts.lr is not None), DEFAULT_LR)

    @property
    def needs(self) -> frozenset[Need]:
        """What a run must have beside the new task: rows of the original task, a head of the base."""
        rows: frozenset[Need] = frozenset({"original"} if "original" in self.streams else ())
        return rows.union(*(parts.needs for parts in self._each()))

    @property
    def streams(self) -> dict[str, float]:
        """What a step reads beside the new task's batch: {stream: rows for each new row}.

        Where several members read a stream, they share the rows of the one that asks for most.
        """
        read = [pair for parts in self._each() for pair in parts.streams.items()]
        return {name: max(share for other, share in read if other == name) for name, _ in read}

    @property
    def layer_streams(self) -> frozenset[str]:
        """The streams on whose rows a loss sees what every layer makes."""
        return frozenset[str]().union(*(parts.layers for parts in self._each()))

    @property
    def loss_streams(self) -> frozenset[str]:
        """The streams whose rows have a loss of a member's own."""
        return frozenset(stream for parts in self._each() for stream in parts.losses)

    @property
    def adds(self) -> bool:
        """Whether a member adds something whose strength a contract can multiply.

        The terms of a method that combines gradients are not added: only their direction counts.
        """
        return any(
            parts.penalty or parts.pull or parts.decay or (parts.losses and not parts.combine) for parts in self._each()
        )

    @property
    def climbs(self) -> bool:
        """Whether a member takes the gradients of the rows elsewhere than at theta."""
        return any(parts.climb for parts in self._each())

    def check(self, context: Context) -> None:
        """Refuse what does not fit the base or the original task; what is worth knowing is noted in the context."""
        for parts in self._each():
            if parts.check is not None:
                parts.check(context)

    def prepare(self, context: Context, key: jax.Array) -> Params:
        """Statistics of the base and the original task, as arrays; computed once, stored with the run.

        Those of a chain are {member's name: its statistics}.
        """
        keys = [key] if len(self.members) == 1 else jax.random.split(key, len(self.members))
        found = {
            member.name: prepare(context, key)
            for member, key in zip(self.members, keys, strict=True)
            if (prepare := member.parts().prepare) is not None
        }
        return self._one_or_named(found)

    def init(self, base: Params, key: jax.Array) -> Params:
        """The trainable tree theta at step 0; a copy, because training donates it."""
        return self.tree.init(base, key)

    def merge(self, base: Params, theta: Params) -> Params:
        """The plain parameters that theta stands for."""
        return self.tree.merge(base, theta)

    def inject(self, now: StepContext, theta: Params, key: jax.Array) -> Params:
        """What the model's apply sees in a training step; `key` draws what the methods draw themselves."""
        inject = self.tree.inject
        params = self.tree.merge(now.base, theta) if inject is None else inject(now.base, theta, key)
        for at, (own, parts) in enumerate(self._at(now)):
            if parts.mix is not None:
                params = parts.mix(own, params, jax.random.fold_in(key, at))
        return params

    def inputs(self, now: StepContext, stream: str, batch: Batch) -> Batch:
        """What the model reads in place of a batch of a stream."""
        for own, parts in self._at(now):
            if stream in parts.inputs:
                batch = parts.inputs[stream](own, batch)
        return batch

    def losses(
        self, now: StepContext, stream: str, outputs: Outputs, batch: Batch, task: Task
    ) -> tuple[jax.Array, ...]:
        """The terms of the rows of a stream, "new" or one of `streams`, of every member that has such: one a row, [B],
        or one a token, [B, T].

        `outputs` are the model's on `batch`, whose `row` int32 [B] are the rows' places in the stream's training rows.
        """
        return tuple(
            parts.losses[stream](own, outputs, batch, task) for own, parts in self._at(now) if stream in parts.losses
        )

    def penalty(self, now: StepContext, params: Params) -> jax.Array | float:
        """The scalar that is added to the mean loss, as a function of the MERGED parameters."""
        total: jax.Array | float = 0.0
        for own, parts in self._at(now):
            if parts.penalty is not None:
                total += parts.penalty(own, params)
            if parts.pull is not None:
                scale, weights = parts.pull(own)
                total += scale * squared_distance(weights, now.base, params)
        return total

    def combine(self, gradients: Gradients) -> dict[str, jax.Array]:
        """The gradient that is descended, of the trained leaves by path, from that of each part of the objective.

        The parts are "penalty" and the streams that the step reads, "new" among them; each is the gradient of a mean.
        """
        return next((parts.combine for parts in self._each() if parts.combine is not None), summed)(gradients)

    def climb(self, theta: Params, gradient: Mapping[str, jax.Array]) -> Params:
        """Where the gradients of the rows are taken; `gradient` is that of the rows at theta, `combine`d."""
        for parts in self._each():
            if parts.climb is not None:
                theta = parts.climb(theta, gradient)
        return theta

    def transform(self, tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
        """The optimizer with what the members put around it."""
        each = list(self._at(now))
        for own, parts in each:
            tx = tx if parts.wrap is None else parts.wrap(tx, own)
        for own, parts in each:
            tx = tx if parts.decay is None else _decaying(tx, partial(parts.decay, own))
        for own, parts in each:
            tx = tx if parts.confine is None else parts.confine(tx, own)
        for own, parts in each:
            tx = tx if parts.observe is None else parts.observe(tx, own)
        return tx

    def leave(self, opt_state: "optax.OptState") -> Params:
        """What later runs read of this one, as arrays, from the optimizer's state at the step that is kept."""
        return self._one_or_named({m.name: leave(opt_state) for m in self.members if (leave := m.parts().leave)})

    def finish(self, base: Params, params: Params) -> Params:
        """The parameters that are scored and kept, from the MERGED ones; `base` lacks fresh heads."""
        for parts in self._each():
            if parts.finish is not None:
                params = parts.finish(base, params)
        return params

    def __add__(self, other: "Method") -> "Method":
        """`LoRA() + EWC()`: both methods at once."""
        return Method.chained(*self.members, *other.members)

    def _each(self) -> Iterator[Parts]:
        return (member.parts() for member in self.members)

    def _at(self, now: StepContext) -> Iterator[tuple[StepContext, Parts]]:
        """What each member says, and a step as it sees it: with its own statistics."""
        if len(self.members) == 1:
            yield now, self.parts()
        else:
            for member in self.members:
                yield now._replace(aux=now.aux.get(member.name, {})), member.parts()

    def _one_or_named(self, found: dict[str, Params]) -> Params:
        """Trees of the members by name; that of a method that is no chain alone. Empty ones are left out."""
        if len(self.members) == 1:
            return next(iter(found.values()), {})
        return {name: tree for name, tree in found.items() if tree}


def _decaying(
    tx: "optax.GradientTransformation", decay: Callable[[Params, Params], Params]
) -> "optax.GradientTransformation":
    """`tx` whose updates pass through `decay(updates, theta)`."""

    def update(gradients: Params, state: "optax.OptState", params: Params) -> tuple[Params, "optax.OptState"]:
        updates, state = updates_of(tx, gradients, state, params)
        return decay(updates, params), state

    return transformation(tx.init, update)
