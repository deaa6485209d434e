"""The flax modules shared by all families: Dense, Dropout, norms, attention, MLP and the post-norm encoder.

Only fft.models imports flax. A family file gives sizes, rates and position ids; the mathematics is here.

Letters: B batch, T tokens, D model, H heads, K head width, F mlp, C classes.
"""

from collections.abc import Callable
from dataclasses import Field, dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.core.batch import Read, States
from fft.models.dropout import Dropout, drop, salt_of

MASKED = float(jnp.finfo(jnp.float32).min)  # not -inf, which would give NaN for a row without tokens


def quick_gelu(x: jax.Array) -> jax.Array:
    """Return x * sigmoid(1.702 x), Hugging Face's `quick_gelu`."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_python": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "gelu_accurate": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu_python_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}


@dataclass(frozen=True)
class Shape:
    """Sizes and rates of a post-norm encoder under names common to all families.

    `types` is 0 if the family has no token types; `pooler` says whether `pooled` is tanh(dense(first token)), as in
    BERT, or the first token itself.
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


class Config(Protocol):
    """The interface of every family's config, a frozen dataclass with the fields of its config.json."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def shape(self) -> Shape:
        """The sizes and rates as a Shape."""
        ...

    @property
    def vocab_size(self) -> int:
        """The number of rows of the word embedding table."""
        ...

    @property
    def max_positions(self) -> int:
        """The length of the longest text, in tokens."""
        ...

    @property
    def head_dropout(self) -> float:
        """The dropout rate in a head."""
        ...

    @property
    def initializer_range(self) -> float:
        """The standard deviation of a newly initialized kernel."""
        ...

    def positions(self, ids: jax.Array, places: int = 0) -> jax.Array:
        """Return the position ids [1 or B, T] of a text after `places` virtual tokens."""
        ...


class HeadMaker(Protocol):
    """Constructor of a head's linen module, pooled [B, D] -> [B, C]."""

    def __call__(self, *, classes: int, name: str | None = None) -> nn.Module:
        """Return a head with C = `classes` outputs."""
        ...


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply x [..., in] by a kernel [in, out] as one product of two matrices.

    With more dimensions XLA on CPU would copy and transpose x and the output's gradient before it computes the
    kernel's gradient, which costs 5 % of a full step.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """y = x W + b, plus a low-rank path if the parameter tree has one.

    x [..., in] -> [..., out]; leaves `kernel` [in, out], `bias` [out]. With `lora_a` [in, R] and `lora_b` [R, out]
    next to the kernel, y += lora_scale * (drop(x) a) b, where `lora_scale` is [] and the optional `lora_dropout` [] is
    the rate of a dropout that, as in PEFT, differs for every token and needs a seed. With `lora_gain` g [out], as in
    DoRA, y += (g - 1) * (drop(x) W) + g * lora_scale * (drop(x) a) b instead.
    References: Hu et al., LoRA, arXiv 2106.09685; Liu et al., DoRA, arXiv 2402.09353.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, seed: jax.Array | None = None) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = matmul(x, kernel) + bias
        return y + self.side(x, kernel, seed) if self.has_variable("params", "lora_a") else y

    def side(self, x: jax.Array, kernel: jax.Array, seed: jax.Array | None) -> jax.Array:
        a, b, scale = (self.get_variable("params", name) for name in ("lora_a", "lora_b", "lora_scale"))
        if seed is not None and self.has_variable("params", "lora_dropout"):
            x = drop(x, jax.lax.stop_gradient(self.get_variable("params", "lora_dropout")), seed, salt_of(self))
        side = matmul(matmul(x, a) * scale, b)
        if not self.has_variable("params", "lora_gain"):
            return side
        gain = self.get_variable("params", "lora_gain")
        return gain * side + (gain - 1.0) * matmul(x, kernel)


def norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Return flax's LayerNorm with this epsilon and exact variance, as in the checkpoints, unlike flax's defaults."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


class Embed(nn.Module):
    """Sum of word, position and type embeddings, norm, dropout: ids, positions, types [B or 1, T] -> [B, T, D].

    Virtual `tokens` [P, D] are put before the words of every row; positions and types must then be for P + T tokens.
    """

    shape: Shape

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
        x = nn.Embed(shape.vocab, shape.dim, name="word")(ids)
        if tokens is not None:
            x = jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)), x], axis=1)
        if shape.types:
            x = x + nn.Embed(shape.types, shape.dim, name="type")(types)
        x = x + nn.Embed(shape.positions, shape.dim, name="position")(positions)
        return Dropout(shape.dropout)(norm(shape.epsilon, "norm")(x), seed)


class Attention(nn.Module):
    """Multi-head attention of `rows` [B, t, D] to `x` [B, T, D]; bias [B, 1, 1, T] is 0 or MASKED -> [B, t, D].

    softmax(q k^T / sqrt(K) + bias) v, dropout on the probabilities, then the output projection. The P keys and values
    of a `prefix` [P, 2, D] are put before those of x; bias must then be [B, 1, 1, P + T].
    """

    shape: Shape

    @nn.compact
    def __call__(
        self, rows: jax.Array, x: jax.Array, bias: jax.Array, seed: jax.Array | None, prefix: jax.Array | None = None
    ) -> jax.Array:
        shape, width = self.shape, self.shape.dim // self.shape.heads

        def by_head(name: str, inputs: jax.Array) -> jax.Array:  # [B, T, D] -> [B, H, T, K]
            y = Dense(shape.dim, name=name)(inputs, seed)
            return y.reshape(*inputs.shape[:2], shape.heads, width).transpose(0, 2, 1, 3)

        query, key, value = by_head("query", rows) * (width**-0.5), by_head("key", x), by_head("value", x)
        if prefix is not None:  # [P, 2, D] -> [2, 1, H, P, K]
            front = prefix.reshape(-1, 2, 1, shape.heads, width).transpose(1, 2, 3, 0, 4)
            front = jnp.broadcast_to(front, (2, x.shape[0], *front.shape[2:]))
            key, value = (jnp.concatenate(pair, axis=2) for pair in ((front[0], key), (front[1], value)))
        scores = jnp.einsum("bhtk,bhsk->bhts", query, key) + bias
        weights = Dropout(shape.attention_dropout)(jax.nn.softmax(scores, axis=-1), seed)
        mixed = jnp.einsum("bhts,bhsk->bhtk", weights, value).transpose(0, 2, 1, 3).reshape(rows.shape)
        return Dense(shape.dim, name="out")(mixed, seed)


class Mlp(nn.Module):
    """down(activation(up(x))): [B, T, D] -> [B, T, F] -> [B, T, D]."""

    shape: Shape

    @nn.compact
    def __call__(self, x: jax.Array, seed: jax.Array | None) -> jax.Array:
        x = ACTIVATIONS[self.shape.activation](Dense(self.shape.mlp, name="up")(x, seed))
        return Dense(self.shape.dim, name="down")(x, seed)


class Block(nn.Module):
    """One post-norm block for the rows [B, t, D] among x [B, T, D]: y = norm(rows + drop(attention(rows, x))),
    then norm(y + drop(mlp(y))).
    """

    shape: Shape

    @nn.compact
    def __call__(
        self, rows: jax.Array, x: jax.Array, bias: jax.Array, seed: jax.Array | None, prefix: jax.Array | None = None
    ) -> jax.Array:
        shape = self.shape
        mixed = Dropout(shape.dropout)(Attention(shape, name="attention")(rows, x, bias, seed, prefix), seed)
        y = norm(shape.epsilon, "attention_norm")(rows + mixed)
        mixed = Dropout(shape.dropout)(Mlp(shape, name="mlp")(y, seed), seed)
        return norm(shape.epsilon, "mlp_norm")(y + mixed)


class Blocks(nn.Module):
    """All blocks, in subtrees 0, 1, ... of `layers`, so that every depth can have its own learning rate.

    x [B, T, D] -> the last block's output [B, T, D] and all outputs {depth: [B, T, D]}, i for the i-th block, from 1.
    With `first` the last block is computed for the first token only, [B, 1, D]: the result for that token is the same,
    and 1/depth of the work is saved. A `prefix` is [P, depth, 2, D].
    """

    shape: Shape
    first: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, bias: jax.Array, seed: jax.Array | None, prefix: jax.Array | None = None
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        made = {}
        for i in range(self.shape.depth):
            last = i == self.shape.depth - 1
            front = None if prefix is None else prefix[:, i]
            x = Block(self.shape, name=str(i))(x[:, :1] if self.first and last else x, x, bias, seed, front)
            made[i + 1] = x
        return x, made


class Heads(nn.Module):
    """The heads {name: C}, applied to the same states: [..., D] -> {name: logits [..., C]}."""

    head: HeadMaker
    classes: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, states: jax.Array, seed: jax.Array | None) -> dict[str, jax.Array]:
        return {name: self.head(classes=size, name=name)(states, seed) for name, size in self.classes}


class Readout(nn.Module):
    """`Heads` under the path that it has in a complete model, on which the random numbers of its dropout depend."""

    head: HeadMaker
    classes: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, states: jax.Array, seed: jax.Array | None) -> dict[str, jax.Array]:
        return Heads(self.head, self.classes, name="heads")(states, seed)


class Encoder(nn.Module):
    """Embeddings, blocks and pooling: ids, mask, types int32 [B, T], positions int32 [B or 1, T] -> States.

    `read` names the states to return, `depths` the layers to return with them. `prompt` holds virtual `tokens`, a
    `prefix`, or nothing; mask, positions and types are those that `fft.models.prompt.inputs` returns. `seed` uint32 [2]
    turns dropout on, None turns it off.
    """

    shape: Shape
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
        return jnp.tanh(Dense(self.shape.dim, name="pooler")(first, seed)) if self.shape.pooler else first
