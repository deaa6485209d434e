"""The transformer of all generative families and ModernBERT, whose choices are fields of `DecoderShape`.

Letters: B batch, T tokens, D model, H heads, G key-value heads, K head width, F mlp.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.core.batch import Read, States
from fft.core.computation import wide
from fft.models.decoder_shape import DecoderShape, LayerAttention
from fft.models.dropout import Dropout
from fft.models.grouped import attend, attend_before
from fft.models.layers import ACTIVATIONS, Dense, RMSNorm, as_format, norm
from fft.models.pooling import mean_token, pooled_place
from fft.models.reach import Slots, allowed_keys, reach_in_ring
from fft.models.rope import rotated, table


def _norm(shape: DecoderShape, name: str) -> nn.Module:
    if shape.norm == "layer":
        return norm(shape.epsilon, name, shape.norm_bias, shape.dtype)
    return RMSNorm(shape.epsilon, shape.norm_offset, name=name)


class GroupedAttention(nn.Module):
    """Attention of `rows` [B, t, D] to `x` [B, T, D] with grouped queries -> [B, t, D].

    softmax(scale · q kᵀ over the allowed tokens) v, dropout on the probabilities, then the output projection. `allowed`
    is bool [B, t, T]; the rotations are (cosines, sines) for the rows and for x, or None. The P keys and values of a
    `prefix` [P, 2, G · K] are put before those of x as they are: `allowed` is [B, t, P + T]. With a `start` [],
    keys and values of x are written into the slots [B, S, G, K] of the collection `cache` from there on, and the rows
    attend to the slots: `allowed` is [B, t, S]. With a `start` [B, T], one slot a token, the slots are a ring
    [B, W, G, K], and the rows attend to what it held and to x: `allowed` is [B, t, W + T].
    """

    shape: DecoderShape
    attention: LayerAttention

    @nn.compact
    def __call__(
        self,
        rows: jax.Array,
        x: jax.Array,
        allowed: jax.Array,
        rotations: "tuple[Rotation, Rotation] | None",
        seed: jax.Array | None,
        start: jax.Array | None = None,
        prefix: jax.Array | None = None,
    ) -> jax.Array:
        shape = self.shape

        def by_head(name: str, inputs: jax.Array, heads: int) -> jax.Array:  # [B, T, D] -> [B, T, H, K]
            y = Dense(heads * shape.width, shape.qkv_bias, shape.dtype, name=name)(inputs, seed)
            if shape.norm_whole and name != "value":
                y = _norm(shape, f"{name}_norm")(y)
            y = y.reshape(*inputs.shape[:2], heads, shape.width)
            if shape.norm_heads and name != "value":
                y = _norm(shape, f"{name}_norm")(y)
            if rotations is not None and name != "value":
                y = rotated(y, *rotations[name == "key"])
            return y

        query = by_head("query", rows, shape.heads)
        key, value = by_head("key", x, shape.kv_heads), by_head("value", x, shape.kv_heads)
        if prefix is not None:
            fronts = prefix_slots(prefix, shape, len(x)).astype(key.dtype)
            key, value = (jnp.concatenate(pair, axis=1) for pair in zip(fronts, (key, value), strict=True))
        if start is not None:
            key, value = self._cached("keys", key, start), self._cached("values", value, start)
        scale, cap, dropped = self.attention.scale, shape.score_cap, seed is not None and shape.attention_dropout > 0
        if shape.causal and start is None and query.shape[1] == key.shape[1] and not dropped:
            mixed = attend_before(query, key, value, allowed, scale, cap, self.attention.window)
        else:
            drop = Dropout(shape.attention_dropout, name="weights")
            mixed = attend(query, key, value, allowed, scale, cap, partial(drop, seed=seed))
        return Dense(shape.dim, shape.out_bias, shape.dtype, name="out")(mixed, seed)

    def _cached(self, name: str, added: jax.Array, start: jax.Array) -> jax.Array:
        """Write keys or values [B, T, G, K] into the slots; return those that the rows attend to."""
        slots = self.get_variable("cache", name)
        if start.ndim == 0:
            written = visible = jax.lax.dynamic_update_slice_in_dim(slots, added, start, axis=1)
        else:
            written = slots.at[jnp.arange(len(added))[:, None], start].set(added, mode="drop")
            visible = jnp.concatenate([slots, added], axis=1)
        self.put_variable("cache", name, written)
        return visible


def prefix_slots(prefix: jax.Array, shape: DecoderShape, rows: int) -> jax.Array:
    """Return the keys and values [2, B, P, G, K] of B = `rows` rows for the prefix [P, 2, G · K] of a layer."""
    by_head = prefix.reshape(len(prefix), 2, 1, shape.kv_heads, shape.width).transpose(1, 2, 0, 3, 4)
    return jnp.broadcast_to(by_head, (2, rows, *by_head.shape[2:]))


class DecoderMlp(nn.Module):
    """down(activation(gate(x)) · up(x)), or down(activation(up(x))): [B, T, D] -> [B, T, F] -> [B, T, D]."""

    shape: DecoderShape

    @nn.compact
    def __call__(self, x: jax.Array, seed: jax.Array | None) -> jax.Array:
        shape, activation = self.shape, ACTIVATIONS[self.shape.activation]

        def dense(features: int, name: str, x: jax.Array) -> jax.Array:
            return Dense(features, shape.mlp_bias, shape.dtype, name=name)(x, seed)

        y = dense(shape.mlp, "up", x)
        y = activation(dense(shape.mlp, "gate", x)) * y if shape.gated else activation(y)
        return dense(shape.dim, "down", Dropout(shape.mlp_dropout, name="hidden")(y, seed))


class DecoderBlock(nn.Module):
    """y = rows + attention(norm(rows), norm(x)), then y + mlp(norm(y)), for the rows [B, t, D] at `places` of x.

    Without `norm_before` they read rows, x and y; with `norm_after` their outputs are normalized.
    """

    shape: DecoderShape
    attention: LayerAttention
    normed: bool = True
    """whether the input of attention is normalized"""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        allowed: jax.Array,
        rotation: "Rotation | None",
        places: jax.Array | None,
        seed: jax.Array | None,
        start: jax.Array | None = None,
        prefix: jax.Array | None = None,
    ) -> jax.Array:
        shape = self.shape
        normed = _norm(shape, "attention_norm")(x) if self.normed and shape.norm_before else x
        attend = GroupedAttention(shape, self.attention, name="attention")
        own = None if rotation is None else ((_at(places, rotation[0]), _at(places, rotation[1])), rotation)
        mixed = attend(_at(places, normed), normed, _at(places, allowed), own, seed, start, prefix)
        y = _at(places, x) + self._added("attention", mixed, shape.attention_out_dropout, seed)
        normed = _norm(shape, "mlp_norm")(y) if shape.norm_before else y
        mixed = DecoderMlp(shape, name="mlp")(normed, seed)
        return y + self._added("mlp", mixed, shape.mlp_out_dropout, seed)

    def _added(self, name: str, y: jax.Array, rate: float, seed: jax.Array | None) -> jax.Array:
        """Return the output of attention or MLP as it is added: with norm and dropout where there are any, scaled."""
        if self.shape.norm_after:
            y = _norm(self.shape, f"{name}_norm_after")(y)
        y = Dropout(rate, name=f"{name}_dropout")(y, seed)
        factor = jnp.asarray(self.shape.residual_scale, wide(y.dtype))  # in bfloat16, 0.22 would be 0.2197
        return (y * factor).astype(y.dtype)


Rotation = tuple[jax.Array, jax.Array]
"""cosines and sines [B, T, width / 2]"""


def _at(places: jax.Array | None, array: jax.Array) -> jax.Array:
    """Return an array [B, T, ...] at one place [B] of each row, [B, 1, ...]; unchanged without places."""
    return array if places is None else jnp.take_along_axis(array, places.reshape(-1, *(1,) * (array.ndim - 1)), axis=1)


class DecoderBlocks(nn.Module):
    """All blocks, in subtrees 0, 1, ... of `layers`; x [B, T, D] -> the last block's output, and {depth: output}.

    With `places` [B] the last block is computed for one token of each row only, [B, 1, D]. With `slots` the T tokens
    are added to those in the collection `cache`, and attend to them. `segments` is [B, P + T] with a `prefix`
    [P, depth, 2, G · K].
    """

    shape: DecoderShape

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        segments: jax.Array,
        positions: jax.Array,
        places: jax.Array | None,
        seed: jax.Array | None,
        slots: Slots | None = None,
        prefix: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        kinds = self.shape.attention
        rotations = {kind.rope: table(kind.rope, positions) for kind in kinds if kind.rope is not None}
        keys = slots
        if prefix is not None:  # its places are slots in front of those of the text
            keys, segments = Slots(segments, jnp.int32(len(prefix))), segments[:, len(prefix) :]

        def reach(window: int | None) -> tuple[jax.Array, jax.Array | None]:
            if slots is not None and window is not None and window < slots.segments.shape[1]:
                return reach_in_ring(segments, window, slots)
            allowed = allowed_keys(segments, window, self.shape.causal, keys)
            return allowed, None if slots is None else slots.start

        reaches = {kind.window: reach(kind.window) for kind in kinds}
        made, block = {}, nn.remat(DecoderBlock) if self.shape.remat else DecoderBlock
        for i, kind in enumerate(kinds):
            rotation = None if kind.rope is None else rotations[kind.rope]
            only = places if i == len(kinds) - 1 else None
            normed = self.shape.norm_first or i > 0
            front = None if prefix is None else prefix[:, i]
            allowed, start = reaches[kind.window]
            x = block(self.shape, kind, normed, name=str(i))(x, allowed, rotation, only, seed, start, front)
            made[i + 1] = x
        return x, made


class DecoderEmbed(nn.Module):
    """Word embeddings, scaled, plus learned positions, norm and dropout if there are any: ids [B, T] -> [B, T, D].

    Virtual `tokens` [P, D] are put before the words of every row, scaled if the shape says so: [B, P + T, D].
    """

    shape: DecoderShape

    @nn.compact
    def __call__(
        self, ids: jax.Array, positions: jax.Array, seed: jax.Array | None, tokens: jax.Array | None = None
    ) -> jax.Array:
        shape = self.shape
        x = self.scaled(as_format(nn.Embed(shape.vocab, shape.dim, name="word")(ids), shape.dtype))
        if tokens is not None:
            tokens = as_format(tokens, shape.dtype)
            tokens = self.scaled(tokens) if shape.scales_virtual else tokens
            x = jnp.concatenate([jnp.broadcast_to(tokens, (len(x), *tokens.shape)), x], axis=1)
        if shape.learned_positions:
            x = x + as_format(nn.Embed(shape.positions, shape.dim, name="position")(positions), shape.dtype)
        if shape.norm_embed:
            x = _norm(shape, "norm")(x)
        return Dropout(shape.embed_dropout)(x, seed)

    def scaled(self, x: jax.Array) -> jax.Array:
        """Return x times the scale of the embeddings."""
        return x if self.shape.embed_scale == 1.0 else x * jnp.asarray(self.shape.embed_scale, x.dtype)


class Decoder(nn.Module):
    """Embeddings, blocks and the final norm: ids, segments int32 [B, T], positions [B, T] -> States.

    `segments` is 0 for padding and else the number of the packed text that a token belongs to; a plain mask is one
    segment. `pooled` is as `shape.pooling` says. `seed` uint32 [2] turns dropout on. `slots` are as in DecoderBlocks.
    `prompt` holds P virtual `tokens`, a `prefix`, or nothing; segments and positions are then those that
    `fft.models.prompt.inputs` returns.
    """

    shape: DecoderShape
    read: frozenset[Read] = frozenset({"pooled"})
    depths: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        segments: jax.Array,
        positions: jax.Array,
        types: jax.Array,
        seed: jax.Array | None,
        prompt: dict[str, jax.Array],
        slots: Slots | None = None,
    ) -> States:
        shape = self.shape
        virtual, prefix = prompt.get("tokens"), prompt.get("prefix")
        embedded = DecoderEmbed(shape, name="embed")(ids, positions, seed, virtual)
        mask = segments if prefix is None else segments[:, len(prefix) :]
        place = pooled_place(shape, ids, mask, virtual is not None)
        only = None if "tokens" in self.read else place
        x, made = DecoderBlocks(shape, name="layers")(embedded, segments, positions, only, seed, slots, prefix)
        layers = {0: embedded, **made}
        x = _norm(shape, "final_norm")(x)
        tokens = x[:, x.shape[1] - ids.shape[1] :] if "tokens" in self.read else None
        pooled = None
        if "pooled" in self.read:
            at_place = x if only is not None else _at(place, x)  # only these states were computed, or all
            pooled = mean_token(x, mask) if place is None else at_place[:, 0]
        return States(pooled, tokens, {depth: layers[depth] for depth in self.depths})
