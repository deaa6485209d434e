"""The interface of a model for the train step, the Fisher pass and the methods, and its forward pass."""

from collections.abc import Collection
from typing import Any, Protocol

import jax

from fft.core.batch import Array, Outputs, Read, States
from fft.core.tree import Params


class StatesOf(Protocol):
    """A pure function from parameters and a batch to hidden states; a key turns dropout on."""

    def __call__(
        self,
        params: Params,
        batch: Any,
        *,
        read: Collection[Read] = ("pooled",),
        key: jax.Array | None = None,
        layers: tuple[int, ...] = (),
    ) -> States:
        """Return the states named in `read`, and those of the `layers`."""
        ...


class ReadoutOf(Protocol):
    """A pure function from parameters and hidden states to logits; a key turns dropout on."""

    def __call__(self, params: Params, head: str, states: Array, *, key: jax.Array | None = None) -> jax.Array:
        """Return the logits [..., C] of the head params["heads"][head] on states [..., D]."""
        ...


class Network(Protocol):
    """A model with these two functions, such as fft.models.Model."""

    @property
    def states(self) -> StatesOf: ...

    @property
    def readout(self) -> ReadoutOf: ...


def outputs_of(
    model: Network,
    params: Params,
    batch: Any,
    *,
    read: Collection[Read] = ("pooled",),
    key: jax.Array | None = None,
    layers: tuple[int, ...] = (),
) -> Outputs:
    """Run a forward pass; `batch` is whatever the model takes."""
    return Outputs(
        model.states(params, batch, read=read, key=key, layers=layers),
        lambda head, states: model.readout(params, head, states, key=key),
    )
