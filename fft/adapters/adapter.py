"""Adapters on a base: pure structures. Off is the base itself, on is the base with one adapter merged into it."""

from collections.abc import Mapping
from typing import NamedTuple

from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.tree import Params, flatten
from fft.methods import Method
from fft.models import Checkpoint, Head


class Adapter(NamedTuple):
    """What is put on a base: a method, the trainable tree that it merges, and the head it was trained with."""

    method: Method
    """the method that replaces the trainable tree, LoRA say"""
    theta: Params
    """its own leaves, whole modules such as a pooler, and heads"""
    heads: dict[str, Head]
    """the heads in theta"""
    primary: str | None
    """the head that becomes the classifier; None: the base's"""
    notes: tuple[str, ...] = ()
    """what whoever uses it should be told of its files"""
    max_length: int | None = None
    """the tokens that longer texts were cut to in its training; None: as of the base"""
    __repr__ = brief

    def on(self, base: Checkpoint) -> Checkpoint:
        """The base with this adapter merged: merge(θ*, θ), the base's other heads beside the adapter's."""
        return base._replace(
            params=self.method.merge(base.params, self.theta),
            heads={**base.heads, **self.heads},
            primary=self.primary or base.primary,
            notes=(*base.notes, *self.notes),
            max_length=self.max_length or base.max_length,
        )


def trained_adapter(method: Method, base: Checkpoint, theta: Params) -> Adapter:
    """The adapter that a method has trained on a base, which holds every head of `theta`.

    Raises: InputError where the method changes the merged weights at its end: they are not base and adapter any more.
    """
    merged = method.merge(base.params, theta)
    finished = flatten(method.finish(base.params, merged))
    if not all(bool((leaf == finished[path]).all()) for path, leaf in flatten(merged).items()):
        raise InputError(
            f"{method.label} changes the merged weights at the end of a run, so that they are no longer the base and "
            "an adapter; export the whole model with --to hf"
        )
    return Adapter(method.owner, theta, base.heads, base.primary)


class Adapters(NamedTuple):
    """Several adapters on one base, of which one is active, or none.

    Example: `Adapters(base, {"tweets": load_adapter("tweets/", base)}).active("tweets").params`
    """

    base: Checkpoint
    adapters: Mapping[str, Adapter]
    __repr__ = brief

    def active(self, name: str | None = None) -> Checkpoint:
        """The base with the adapter `name` merged; without a name the base itself, bit for bit.

        Raises: InputError for a name that is not among the adapters.
        """
        if name is None:
            return self.base
        if name not in self.adapters:
            raise InputError(f"there is no adapter {name!r}; loaded are: {', '.join(self.adapters) or 'none'}")
        return self.adapters[name].on(self.base)
