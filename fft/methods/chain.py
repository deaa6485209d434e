"""Several methods at once."""

import dataclasses
import itertools
from collections.abc import Sequence

from fft.core.errors import InputError
from fft.methods.base import Method

ONE = {
    "tree": "each say what is trained and how the model's parameters come of it",
    "combine": "each say what becomes of the gradients",
    "confine": "each keep the updates within bounds of their own, and the one undoes what the other keeps",
}
"""the slots of Parts of which a chain holds one, and why"""


@dataclasses.dataclass(frozen=True)
class Chain(Method):
    """Several methods at once, put together slot by slot as fft.methods.parts.Parts says."""

    methods: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        """A chain has no settings of its own to check."""

    @property
    def label(self) -> str:
        return "+".join(method.name for method in self.methods)

    @property
    def members(self) -> tuple[Method, ...]:
        return self.methods

    def continued(self, run: str | None, fisher: str | None) -> "Chain":
        return dataclasses.replace(self, methods=tuple(m.continued(run, fisher) for m in self.methods))


def chain(*methods: Method) -> Method:
    """The chain of some methods; one method alone is itself.

    Raises: InputError for a method named twice, for two that fill a slot which holds one, and for a method that
    combines gradients or rewrites the rows of a stream beside one that reads that stream.
    """
    if len(methods) == 1:
        return methods[0]
    names = [method.name for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"the method chain {'+'.join(names)} names {', '.join(twice)} twice")
    for slot, why in ONE.items():
        filled = {method.name: part for method in methods if (part := getattr(method.parts(), slot)) is not None}
        owners = [name for name, part in filled.items() if part is not next(iter(filled.values()))]
        if owners:
            raise InputError(f"{next(iter(filled))} and {owners[0]} {why}: a chain can hold one such method")
    _refuse_shared_streams(methods)
    return Chain(tuple(methods))


Method.chained = chain


def _refuse_shared_streams(methods: Sequence[Method]) -> None:
    """Refuse chains in which two methods claim the same stream's gradients or rows."""
    for method, other in itertools.permutations(methods, 2):
        own, parts = method.parts(), other.parts()
        if own.combine and (shared := own.streams.keys() & parts.streams.keys()):
            raise InputError(
                f"{method.name} says what becomes of the gradient on the {min(shared)} rows, and {other.name} needs "
                "that gradient too: a chain can hold one of them"
            )
        if shared := own.inputs.keys() & parts.streams.keys():
            raise InputError(
                f"{method.name} puts rows of its own in place of the {min(shared)} ones, and {other.name} reads those: "
                "a chain can hold one of them"
            )
