"""The post-norm encoder shared by BERT, RoBERTa and DistilBERT: embeddings, blocks and pooling.

Letters: B batch, T tokens, D model, H heads, K head width, F mlp.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.core.batch import Read, States
from fft.core.computation import Format, wide
from fft.models.dropout import Dropout
from fft.models.layers import ACTIVATIONS, MASKED, Config, Dense, as_format, norm


@dataclass(frozen=True)
class EncoderShape:
    """Sizes and rates of a post-norm encoder under names common to all families.

    `types` is 0 if the family has no token types; `pooler` says whether `pooled` is tanh(dense(first token)), as in
    BERT, or the first token itself; `tied` whether the last kernel of the language head is the word embeddings.
    """

    vocab: int
    positions: int
    types: int
    dim: int
    depth: int
    heads: int
    mlp: int
    activation: str
    epsilon: float
    dropout: float
    attention_dropout: float
    pooler: bool
    tied: bool
    dtype: Format = "float32"
    remat: bool = False


def problems_of(config: Config) -> Iterator[str]:
    """Yield what does not fit together in an encoder's config."""
    shape = cast("EncoderShape", config.shape)
    if shape.dim % shape.heads:
        yield f"the model width {shape.dim} is not a multiple of its {shape.heads} heads"
    if config.max_positions < 1:
        yield f"max_position_embeddings {shape.positions} leaves no usable position"


class Embed(nn.Module):
    """Sum of word, position and type embeddings, norm, dropout: ids, positions, types [B or 1, T] -> [B, T, D].

    Virtual `tokens` [P, D] are put before the words of every row; positions and types must then be for P + T tokens.
    """

    shape: EncoderShape

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        positions: jax.Array,
        types: jax.Array,
        seed: jax.Array | None,
        tokens: jax.Array | None = None,
    ) -> jax.Array:
        shape = self.shape

        def looked_up(name: str, rows: int, numbers: jax.Array) -> jax.Array:
            return as_format(nn.Embed(rows, shape.dim, name=name)(numbers), "float32")

        x = looked_up("word", shape.vocab, ids)
        if tokens is not None:
            x = jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)), x], axis=1)
        if shape.types:
            x = x + looked_up("type", shape.types, types)
        x = x + looked_up("position", shape.positions, positions)
        return Dropout(shape.dropout)(norm(shape.epsilon, "norm", dtype=shape.dtype)(x), seed)


class Attention(nn.Module):
    """Multi-head attention of `rows` [B, t, D] to `x` [B, T, D]; bias [B, 1, 1, T] is 0 or MASKED -> [B, t, D].

    softmax(q k^T / sqrt(K) + bias) v, dropout on the probabilities, then the output projection. The P keys and values
    of a `prefix` [P, 2, D] are put before those of x; bias must then be [B, 1, 1, P + T].
    """

    shape: EncoderShape

    @nn.compact
    def __call__(
        self, rows: jax.Array, x: jax.Array, bias: jax.Array, seed: jax.Array | None, prefix: jax.Array | None = None
    ) -> jax.Array:
        shape, width = self.shape, self.shape.dim // self.shape.heads

        def by_head(name: str, inputs: jax.Array) -> jax.Array:  # [B, T, D] -> [B, H, T, K]
            y = Dense(shape.dim, name=name, dtype=shape.dtype)(inputs, seed)
            return y.reshape(*inputs.shape[:2], shape.heads, width).transpose(0, 2, 1, 3)

        query, key, value = by_head("query", rows) * (width**-0.5), by_head("key", x), by_head("value", x)
        if prefix is not None:  # [P, 2, D] -> [2, 1, H, P, K]
            front = prefix.reshape(-1, 2, 1, shape.heads, width).transpose(1, 2, 3, 0, 4)
            front = jnp.broadcast_to(front, (2, x.shape[0], *front.shape[2:])).astype(key.dtype)
            key, value = (jnp.concatenate(pair, axis=2) for pair in ((front[0], key), (front[1], value)))
        scores = jnp.einsum("bhtk,bhsk->bhts", query, key, preferred_element_type=wide(key.dtype)) + bias
        weights = Dropout(shape.attention_dropout)(jax.nn.softmax(scores, axis=-1).astype(value.dtype), seed)
        mixed = jnp.einsum("bhts,bhsk->bhtk", weights, value).transpose(0, 2, 1, 3).reshape(rows.shape)
        return Dense(shape.dim, name="out", dtype=shape.dtype)(mixed, seed)


class Mlp(nn.Module):
    """down(activation(up(x))): [B, T, D] -> [B, T, F] -> [B, T, D]."""

    shape: EncoderShape

    @nn.compact
    def __call__(self, x: jax.Array, seed: jax.Array | None) -> jax.Array:
        shape = self.shape
        x = ACTIVATIONS[shape.activation](Dense(shape.mlp, name="up", dtype=shape.dtype)(x, seed))
        return Dense(shape.dim, name="down", dtype=shape.dtype)(x, seed)


class Block(nn.Module):
    """One post-norm block for the rows [B, t, D] among x [B, T, D]: y = norm(rows + drop(attention(rows, x))),
    then norm(y + drop(mlp(y))).
    """

    shape: EncoderShape

    @nn.compact
    def __call__(
        self, rows: jax.Array, x: jax.Array, bias: jax.Array, seed: jax.Array | None, prefix: jax.Array | None = None
    ) -> jax.Array:
        shape = self.shape
        mixed = Dropout(shape.dropout)(Attention(shape, name="attention")(rows, x, bias, seed, prefix), seed)
        y = norm(shape.epsilon, "attention_norm", dtype=shape.dtype)(rows + mixed)
        mixed = Dropout(shape.dropout)(Mlp(shape, name="mlp")(y, seed), seed)
        return norm(shape.epsilon, "mlp_norm", dtype=shape.dtype)(y + mixed)


class Blocks(nn.Module):
    """All blocks, in subtrees 0, 1, ... of `layers`, so that every depth can have its own learning rate.

    x [B, T, D] -> the last block's output [B, T, D] and all outputs {depth: [B, T, D]}, i for the i-th block, from 1.
    With `first` the last block is computed for the first token only, [B, 1, D]: the result for that token is the same,
    and 1/depth of the work is saved. A `prefix` is [P, depth, 2, D].
    """

    shape: EncoderShape
    first: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, bias: jax.Array, seed: jax.Array | None, prefix: jax.Array | None = None
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        made, block = {}, nn.remat(Block) if self.shape.remat else Block
        for i in range(self.shape.depth):
            last = i == self.shape.depth - 1
            front = None if prefix is None else prefix[:, i]
            x = block(self.shape, name=str(i))(x[:, :1] if self.first and last else x, x, bias, seed, front)
            made[i + 1] = x
        return x, made


class Encoder(nn.Module):
    """Embeddings, blocks and pooling: ids, mask, types int32 [B, T], positions int32 [B or 1, T] -> States.

    `read` names the states to return, `depths` the layers to return with them. `prompt` holds virtual `tokens`, a
    `prefix`, or nothing; mask, positions and types are those that `fft.models.prompt.inputs` returns. `seed` uint32 [2]
    turns dropout on, None turns it off.
    """

    shape: EncoderShape
    read: frozenset[Read] = frozenset({"pooled"})
    depths: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        mask: jax.Array,
        positions: jax.Array,
        types: jax.Array,
        seed: jax.Array | None,
        prompt: dict[str, jax.Array],
    ) -> States:
        bias = jnp.where(mask[:, None, None, :] > 0, 0.0, MASKED)
        embedded = Embed(self.shape, name="embed")(ids, positions, types, seed, prompt.get("tokens"))
        blocks = Blocks(self.shape, "tokens" not in self.read, name="layers")
        x, made = blocks(embedded, bias, seed, prompt.get("prefix"))
        layers = {0: embedded, **made}
        pooled = self._pooled(x, seed) if "pooled" in self.read else None
        tokens = x[:, -ids.shape[1] :] if "tokens" in self.read else None
        return States(pooled, tokens, {depth: layers[depth] for depth in self.depths})

    def _pooled(self, x: jax.Array, seed: jax.Array | None) -> jax.Array:
        first = x[:, 0]
        if not self.shape.pooler:
            return first
        return jnp.tanh(Dense(self.shape.dim, name="pooler", dtype=self.shape.dtype)(first, seed))
