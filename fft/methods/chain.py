"""Several methods at once."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import jax

from fft.core.batch import Batch, Outputs
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.methods.base import Method, by_settings, claims_tree, combines, rewrites, summed
from fft.methods.context import Context, Given
from fft.tasks import Task

if TYPE_CHECKING:
    import optax


@dataclasses.dataclass(frozen=True)
class Chain(Method):
    """Several methods at once: multipliers multiply, penalties add, transforms nest, at most one re-parametrises."""

    needs_original: ClassVar[bool] = by_settings(lambda self: any(m.needs_original for m in self.methods))
    needs_head: ClassVar[bool] = by_settings(lambda self: any(m.needs_head for m in self.methods))
    default_lr: ClassVar[float] = by_settings(lambda self: self.carrier.default_lr)
    plain: ClassVar[bool] = by_settings(lambda self: self.carrier.plain)
    methods: tuple[Method, ...] = ()

    @property
    def label(self) -> str:
        return "+".join(method.name for method in self.methods)

    @property
    def members(self) -> tuple[Method, ...]:
        return self.methods

    @property
    def streams(self) -> Mapping[str, float]:
        """Every stream that a member reads; where several do, they share the rows of the one that asks for most."""
        read = [pair for method in self.methods for pair in method.streams.items()]
        return {name: max(share for other, share in read if other == name) for name, _ in read}

    @property
    def hidden(self) -> frozenset[str]:
        return frozenset().union(*(method.hidden for method in self.methods))

    @property
    def carrier(self) -> Method:
        """The one member that says what the trainable tree is and stands for, else the first."""
        return next(filter(claims_tree, self.methods), self.methods[0])

    def continued(self, run: str | None, fisher: str | None) -> "Chain":
        return dataclasses.replace(self, methods=tuple(m.continued(run, fisher) for m in self.methods))

    def check(self, given: Given) -> tuple[str, ...]:
        return tuple(note for method in self.methods for note in method.check(given))

    def prepare(self, context: Context, key: jax.Array) -> Params:
        keys = jax.random.split(key, len(self.methods))
        prepared = {m.name: m.prepare(context, k) for m, k in zip(self.methods, keys, strict=True)}
        return {name: aux for name, aux in prepared.items() if aux}

    def init(self, base: Params, key: jax.Array) -> Params:
        return self.carrier.init(base, key)

    def merge(self, base: Params, theta: Params) -> Params:
        return self.carrier.merge(base, theta)

    def inject(self, base: Params, theta: Params, key: jax.Array | None = None) -> Params:
        return self.carrier.inject(base, theta, key)

    def penalty(self, base: Params, params: Params, aux: Params) -> jax.Array | float:
        return sum((m.penalty(base, params, aux.get(m.name, {})) for m in self.methods), 0.0)

    def loss(self, stream: str, outputs: Outputs, batch: Batch, aux: Params, task: Task) -> jax.Array | float:
        raise TypeError("the terms of a chain's members may differ in shape: ask for its `losses`")

    def losses(
        self, stream: str, outputs: Outputs, batch: Batch, aux: Params, task: Task
    ) -> tuple[jax.Array | float, ...]:
        return tuple(m.loss(stream, outputs, batch, aux.get(m.name, {}), task) for m in self.methods)

    def inputs(self, stream: str, batch: Batch, aux: Params) -> Batch:
        for method in self.methods:
            batch = method.inputs(stream, batch, aux.get(method.name, {}))
        return batch

    def combine(self, gradients: Mapping[str, dict[str, jax.Array]]) -> dict[str, jax.Array]:
        for method in filter(combines, self.methods):
            return method.combine(gradients)
        return summed(gradients)

    def transform(self, tx: "optax.GradientTransformation", aux: Params) -> "optax.GradientTransformation":
        for method in sorted(self.methods, key=lambda method: method.outermost):
            tx = method.transform(tx, aux.get(method.name, {}))
        return tx

    def leave(self, opt_state: "optax.OptState") -> Params:
        left = {method.name: method.leave(opt_state) for method in self.methods}
        return {name: tree for name, tree in left.items() if tree}

    def climb(self, theta: Params, gradient: Mapping[str, jax.Array]) -> Params:
        for method in self.methods:
            theta = method.climb(theta, gradient)
        return theta

    def finish(self, base: Params, params: Params) -> Params:
        for method in self.methods:
            params = method.finish(base, params)
        return params


def chain(*methods: Method) -> Method:
    """The chain of some methods; one method alone is itself.

    Errors: InputError for a method named twice, for two methods that each say what the trainable tree is or stands for,
    for a method of the base's own leaves beside one that replaces them, for two that confine the updates, and for a
    method that combines gradients or rewrites the rows of a stream beside one that reads that stream, or combines
    gradients as well.
    """
    if len(methods) == 1:
        return methods[0]
    names = [method.name for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"the method chain {'+'.join(names)} names {', '.join(twice)} twice")
    if len(claimants := [method.name for method in methods if claims_tree(method)]) > 1:
        raise InputError(
            f"{' and '.join(claimants)} each say what is trained and how the model's parameters come of it, and only "
            "one of them would be asked: a chain can hold one such method"
        )
    owners = [method.name for method in methods if method.reparametrizes]
    for method in methods:
        if owners and method.whole:
            raise InputError(
                f"{method.name} works on the base's own parameters, and {owners[0]} trains others in their place: "
                "leave one of them out"
            )
    if len(confining := [method.name for method in methods if method.confines]) > 1:
        raise InputError(
            f"{' and '.join(confining)} each keep the updates within bounds of their own, and the one undoes what the "
            "other keeps: a chain can hold one such method"
        )
    _refuse_shared_streams(methods)
    return Chain(tuple(methods))


Method.chained = chain


def _refuse_shared_streams(methods: Sequence[Method]) -> None:
    """Refuse what else needs the gradients that a member combines, or the rows that one puts others in place of."""
    for method, other in itertools.permutations(methods, 2):
        shared = sorted(set(other.streams) & set(method.streams))
        if combines(method) and (combines(other) or shared):
            raise InputError(
                f"{method.name} says what becomes of the gradient on the rows that it reads, and {other.name} needs "
                "that gradient too: a chain can hold one of them"
            )
        if rewrites(method) and shared:
            raise InputError(
                f"{method.name} puts rows of its own in place of the {shared[0]} ones, and {other.name} reads those: a "
                "chain can hold one of them"
            )
