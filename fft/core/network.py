"""The interface of a model for the train step, the Fisher pass and the methods; forward passes over batches."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from fft.core.batch import Array, Batch, Outputs, Read, States, row_weight
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
        """Return the logits [..., C] of the head params["heads"][head], or of UNEMBED, on states [..., D]."""
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


def on_host(
    function: Callable[[Params, Batch], jax.Array],
    params: Params,
    batches: Iterable[Batch],
    poll: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `function`, compiled here, gives for the real rows (weight > 0) of all batches, with their targets
    and weights: arrays [N, ...], those of tokens zero-padded to the longest.

    `poll` is called before every batch and may raise to stop.
    """
    program, parts = jax.jit(function), []
    for batch in batches:
        poll()
        real = np.asarray(row_weight(batch.weight)) > 0
        parts.append([np.asarray(array)[real] for array in (program(params, batch), batch.targets, batch.weight)])
    values, targets, weights = map(_concatenated, zip(*parts, strict=True))
    return values, targets, weights


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate arrays [n_i, ...]; arrays of tokens [n_i, T_i, ...] are zero-padded to the longest."""
    if parts[0].ndim == 1 or len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    rest = [(0, 0)] * (parts[0].ndim - 2)
    return np.concatenate([np.pad(part, ((0, 0), (0, longest - part.shape[1]), *rest)) for part in parts])
