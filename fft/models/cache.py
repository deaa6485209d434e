"""The cache of keys and values with which a decoder reads a text piece by piece.

Letters: B rows, t tokens that are added, S slots, G key-value heads, K head width, D model.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer

from fft.core.batch import Array, States
from fft.core.computation import Format, widened
from fft.core.tree import Params
from fft.models.decoder import DecoderShape, prefix_slots
from fft.models.prompt import places_of
from fft.models.reach import Slots, ring_size


class Cache(NamedTuple):
    """What a decoder keeps of the tokens that it has read, B rows in S slots; a row's first slots may be padding."""

    layers: dict[str, Any]
    """{"layers": {i: {"attention": {"keys", "values"}}}}, each [B, S, G, K] in the format of the computation, or a ring
    [B, W, G, K] for a layer with a window W < S, see fft.models.reach
    """
    segments: jax.Array
    """int32 [B, S], 1 for a token, 0 for padding and for slots that are not in use"""
    start: jax.Array
    """int32 [], the number of slots in use"""
    position: jax.Array
    """int32 [B], the position of each row's next token"""


class Extend(Protocol):
    """A pure function that reads the next tokens of every row."""

    def __call__(
        self, params: Params, cache: Cache, ids: Array, mask: Array, first: bool = False
    ) -> tuple[jax.Array, Cache]:
        """Return the states float32 [B, t, D] of the tokens ids int32 [B, t], and the cache with them.

        `mask` int32 [B, t] is 0 for padding, which may precede the first token of a row and nothing else. `first` must
        be given with the first tokens of a text, and only there: the P virtual tokens or the prefix of
        params["prompt"], if there is one, are read before them. The cache must have t free slots, and P more then.
        """
        ...


def empty(shape: DecoderShape, dtype: Format, rows: int, slots: int) -> Cache:
    """Return a cache for B = `rows` texts of at most S = `slots` tokens, padding included."""
    sizes = [ring_size(kind.window, slots) for kind in shape.attention]
    stored = {size: jnp.zeros((rows, size, shape.kv_heads, shape.width), dtype) for size in sizes}
    layers = {str(i): {"attention": {"keys": stored[size], "values": stored[size]}} for i, size in enumerate(sizes)}
    counts = jnp.zeros((rows, slots), jnp.int32)
    return Cache({"layers": layers}, counts, jnp.zeros((), jnp.int32), counts[:, 0])


def extend_with(network: Callable[..., nn.Module], shape: DecoderShape) -> Extend:
    """Return the function `extend` of a decoder of this shape."""
    decoder = network(replace(shape, remat=False), frozenset({"tokens"}), ())

    def extend(params: Params, cache: Cache, ids: Array, mask: Array, first: bool = False) -> tuple[jax.Array, Cache]:
        ids, mask = jnp.asarray(ids, jnp.int32), jnp.asarray(mask, jnp.int32)
        prompt = params.get("prompt", {}) if first else {}
        if "prefix" in prompt:
            cache = with_prefix(cache, prompt["prefix"], shape)
        if "tokens" in prompt:
            virtual = jnp.ones((len(ids), places_of(params)), jnp.int32)
            _, cache = read(params, cache, ids[:, :0], virtual, prompt)
        return read(params, cache, ids, mask, {})

    def read(
        params: Params, cache: Cache, ids: jax.Array, mask: jax.Array, prompt: dict[str, jax.Array]
    ) -> tuple[jax.Array, Cache]:
        """Read tokens after those of the cache, or virtual ones: `mask` is then [B, P]."""
        added, size = mask.shape[1], cache.segments.shape[1]
        assert isinstance(cache.start, Tracer) or int(cache.start) + added <= size, "the cache has too few slots"
        positions = jnp.maximum(cache.position[:, None] + jnp.cumsum(mask, axis=1) - 1, 0)
        segments = jax.lax.dynamic_update_slice_in_dim(cache.segments, mask, cache.start, axis=1)
        variables = {"params": params, "cache": cache.layers}
        inputs = ids, mask, positions, jnp.zeros_like(ids), None, prompt, Slots(segments, cache.start)
        states, changed = cast("tuple[States, Any]", decoder.apply(variables, *inputs, mutable=["cache"]))
        assert states.tokens is not None
        after = Cache(changed["cache"], segments, cache.start + added, cache.position + jnp.sum(mask, axis=1))
        return widened(states.tokens), after

    return extend


def with_prefix(cache: Cache, prefix: jax.Array, shape: DecoderShape) -> Cache:
    """Return an empty cache with the keys and values of a prefix [P, depth, 2, G · K], in a ring the last ones."""
    places, rows = len(prefix), len(cache.segments)
    layers = {}
    for i, layer in cache.layers["layers"].items():
        slots = layer["attention"]
        size = slots["keys"].shape[1]
        kept = np.arange(max(0, places - size), places)
        fronts = zip(("keys", "values"), prefix_slots(prefix[kept, int(i)], shape, rows), strict=True)
        layers[i] = {"attention": {name: slots[name].at[:, kept % size].set(front) for name, front in fronts}}
    segments = cache.segments.at[:, :places].set(1)
    return Cache({"layers": layers}, segments, cache.start + places, cache.position + places)
