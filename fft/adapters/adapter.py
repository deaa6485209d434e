"""Adapters of a base, as pure data: applying one returns the base with the adapter merged into it."""

from typing import NamedTuple

import numpy as np

from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.tree import Params, flatten
from fft.methods import LoRA, Method
from fft.models import Checkpoint, Head, untied
from fft.models.files.tensors import refuse_not_finite


class Adapter(NamedTuple):
    """An adapter: its method, the trained tree that the method merges into a base, and its heads."""

    method: Method
    """the method that defines the trainable tree, such as LoRA"""
    theta: Params
    """the method's own leaves, fully trained modules such as a pooler, and heads"""
    heads: dict[str, Head]
    """the heads in theta"""
    primary: str | None
    """the head that becomes the classifier; None: the base's"""
    notes: tuple[str, ...] = ()
    """notes on its files, for the user"""
    max_length: int | None = None
    """the number of tokens that texts were cut to in its training; None: the base's"""
    unties: bool = False
    """whether word embeddings and language head, which the base ties, are no longer equal"""
    __repr__ = brief

    def on(self, base: Checkpoint) -> Checkpoint:
        """Return the base with this adapter merged, merge(θ*, θ), and with the heads of both.

        Raises: InputError where merged weights are not finite.
        """
        base = untied(base) if self.unties else base
        params, own = self.method.merge(base.params, self.theta), flatten(base.params)
        changed = {path: np.asarray(leaf) for path, leaf in flatten(params).items() if leaf is not own.get(path)}
        refuse_not_finite(changed, f"{base.folder} with its adapter")
        return base._replace(
            params=params,
            heads={**base.heads, **self.heads},
            primary=self.primary or base.primary,
            notes=(*base.notes, *self.notes),
            max_length=self.max_length or base.max_length,
        )


def trained_adapter(method: Method, base: Checkpoint, theta: Params) -> Adapter:
    """Return the adapter of a trained tree `theta`; the base has every head of it.

    Raises: InputError where the method changes the merged weights at the end of a run: they are then no longer the base
    and an adapter.
    """
    merged = method.merge(base.params, theta)
    finished = flatten(method.finish(base.params, merged))
    if not all(bool((leaf == finished[path]).all()) for path, leaf in flatten(merged).items()):
        raise InputError(
            f"{method.label} changes the merged weights at the end of a run, so that they are no longer the base and "
            "an adapter; export the whole model with --to hf"
        )
    owner = method.owner
    if isinstance(owner, LoRA):
        owner, theta = owner.uniform(theta)
    return Adapter(owner, theta, base.heads, base.classifier, max_length=base.max_length)
