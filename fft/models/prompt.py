"""Masks, positions and types for virtual tokens before the text and for prefixes before the keys and values.

A parameter tree may have a subtree `prompt`: `tokens` [P, D], or `prefix` [P, depth, 2, D], the keys and values of
every block, which are not rotated; with G key-value heads of width K it is [P, depth, 2, G · K]. As in PEFT the P
places are never masked, have token type 0, and shift the positions of the text by P. The first virtual token is then
the first token of the row, which the heads of encoders read. References: Lester et al., arXiv 2104.08691; Li and Liang,
arXiv 2101.00190.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fft.core.batch import Array, Text, segments_of
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.models.layers import Config


def inputs(
    params: Params, batch: Text, config: Config
) -> tuple[Array, jax.Array, jax.Array, Array, dict[str, jax.Array]]:
    """Return a network's inputs for a batch of ids, mask, types [B, T]: ids, mask, positions, types, prompt.

    Shapes: ids [B, T], mask [B, P + T], positions and types [B or 1, T], or [.., P + T] with virtual tokens. For packed
    rows the mask holds their segments.
    Raises: InputError, while tracing, if P + T exceeds the number of positions; with virtual tokens or a prefix, for
    packed rows: while tracing if they have `segments`, outside jit if their mask numbers the texts.
    """
    prompt, ids, types = params.get("prompt", {}), batch.ids, batch.types
    places = places_of(params)
    check_length(ids.shape[1], places, config)
    packed = segments_of(batch)
    if prompt and (packed is not None or _is_packed(batch.mask)):
        raise InputError(
            "a row holds several packed texts, and virtual tokens or a prefix precede one text: give one text a row, "
            "without --pack"
        )
    mask = batch.mask if packed is None else packed
    positions = config.positions(jnp.asarray(ids), mask, places)
    if "tokens" in prompt:
        front = config.positions(jnp.full((1, places), -1), jnp.ones((1, places)))  # -1: no id is padding
        positions = jnp.concatenate([jnp.broadcast_to(front, (len(positions), places)), positions], axis=1)
        types = jnp.pad(types, ((0, 0), (places, 0)))
    mask = jnp.pad(mask, ((0, 0), (places, 0)), constant_values=1)
    return ids, mask, positions, types, prompt


def places_of(params: Params) -> int:
    """Return P, the number of virtual tokens or of prefixes in the parameters."""
    return next((len(leaf) for leaf in params.get("prompt", {}).values()), 0)


def _is_packed(mask: Array) -> bool:
    """Whether a mask, if it is known, numbers several texts of a row."""
    return not isinstance(mask, Tracer) and int(np.max(mask, initial=0)) > 1


def check_length(tokens: int, places: int, config: Config) -> None:
    """Check that a batch fits into the position table; works while tracing. Raises: InputError if it does not."""
    if tokens + places > config.max_positions:
        virtual = f" beside {places} virtual ones" if places else ""
        raise InputError(
            f"a batch has {tokens} tokens a row{virtual}; this model has positions for {config.max_positions}: "
            "truncate it"
        )
