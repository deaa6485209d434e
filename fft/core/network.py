"""What the train step, the Fisher pass and the methods ask of a model, and its forward pass as they are handed it."""

from collections.abc import Collection
from typing import Any, Protocol

import jax

from fft.core.batch import Array, Outputs, Read, States
from fft.core.tree import Params


class StatesOf(Protocol):
    """A pure function of parameters and a batch; a key turns dropout on."""

    def __call__(
        self,
        params: Params,
        batch: Any,
        *,
        read: Collection[Read] = ("pooled",),
        key: jax.Array | None = None,
        layers: tuple[int, ...] = (),
    ) -> States:
        """The states that are read, and those of the `layers`."""
        ...


class ReadoutOf(Protocol):
    """A pure function of parameters and states; a key turns dropout on."""

    def __call__(self, params: Params, head: str, states: Array, *, key: jax.Array | None = None) -> jax.Array:
        """What the head params["heads"][head] says of states [..., D]: [..., C]."""
        ...


class Network(Protocol):
    """Any model with these two functions; fft.models.Model is one."""

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
    """The states of a batch and how the heads of `params` read them; `batch` is what the model takes."""
    return Outputs(
        model.states(params, batch, read=read, key=key, layers=layers),
        lambda head, states: model.readout(params, head, states, key=key),
    )
