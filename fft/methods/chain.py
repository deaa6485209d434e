"""Chains: several methods in one run."""

import dataclasses
import itertools
from collections.abc import Sequence

from fft.core.errors import InputError
from fft.methods.base import Method

SINGLE_SLOTS = {
    "tree": "each set what is trained and how the model's parameters are made from it",
    "combine": "each combine the gradients",
    "confine": "each constrain the updates, and one would undo the constraint of the other",
}
"""the slots of Parts that only one member of a chain may fill, and why"""


@dataclasses.dataclass(frozen=True)
class Chain(Method):
    """Several methods at once, combined slot by slot as described in fft.methods.parts.Parts."""

    methods: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        """Check nothing: a chain has no settings of its own."""

    @property
    def label(self) -> str:
        return "+".join(method.name for method in self.methods)

    @property
    def members(self) -> tuple[Method, ...]:
        return self.methods

    def continued(self, run: str | None, fisher: str | None) -> "Chain":
        return dataclasses.replace(self, methods=tuple(m.continued(run, fisher) for m in self.methods))


def chain(*methods: Method) -> Method:
    """Return the chain of some methods; a single method is returned as it is.

    Raises: InputError for a method named twice, for two methods that fill one of SINGLE_SLOTS, and for a method that
    combines the gradients or replaces the rows of a stream that another one reads.
    """
    if len(methods) == 1:
        return methods[0]
    names = [method.name for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"the method chain {'+'.join(names)} names {', '.join(twice)} twice: name each method once")
    for slot, why in SINGLE_SLOTS.items():
        filled = {method.name: part for method in methods if (part := getattr(method.parts(), slot)) is not None}
        owners = [name for name, part in filled.items() if part is not next(iter(filled.values()))]
        if owners:
            raise InputError(f"{next(iter(filled))} and {owners[0]} {why}: leave one of them out")
    _refuse_shared_streams(methods)
    return Chain(tuple(methods))


Method.chained = chain


def _refuse_shared_streams(methods: Sequence[Method]) -> None:
    """Reject chains in which two methods claim the same stream's gradients or rows.

    Raises: InputError.
    """
    for method, other in itertools.permutations(methods, 2):
        own, parts = method.parts(), other.parts()
        if own.combine and (shared := own.streams.keys() & parts.streams.keys()):
            raise InputError(
                f"{method.name} replaces the gradient on the {min(shared)} rows, and {other.name} needs it as well: "
                "leave one of them out"
            )
        if shared := own.inputs.keys() & parts.streams.keys():
            raise InputError(
                f"{method.name} replaces the {min(shared)} rows with its own, and {other.name} reads these rows: "
                "leave one of them out"
            )
