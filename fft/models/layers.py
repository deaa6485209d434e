"""The flax modules shared by encoders and decoders: Dense, norms, activations and heads; the interface of a config.

Only fft.models imports flax. A family file gives sizes, rates and position ids; the mathematics is here, in
fft.models.encoder and in fft.models.decoder.

Letters: B batch, T tokens, D model, C classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import Field
from functools import partial
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from fft.core.batch import Array
from fft.core.computation import Format, wide
from fft.models.dropout import drop, salt_of

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


class Sizes(Protocol):
    """The sizes that encoders and decoders share; a frozen dataclass, EncoderShape or DecoderShape."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def vocab(self) -> int:
        """The number of rows of the word embedding table."""
        ...

    @property
    def types(self) -> int:
        """The number of token types, 0 for none."""
        ...

    @property
    def dim(self) -> int:
        """D, the width of the model."""
        ...

    @property
    def depth(self) -> int:
        """The number of blocks."""
        ...

    @property
    def heads(self) -> int:
        """H, the number of attention heads of a block."""
        ...

    @property
    def activation(self) -> str:
        """The activation of the MLPs."""
        ...

    @property
    def epsilon(self) -> float:
        """The epsilon of the norms."""
        ...

    @property
    def dtype(self) -> Format:
        """The format of products and hidden states."""
        ...

    @property
    def remat(self) -> bool:
        """Whether the backward pass computes every block again."""
        ...

    @property
    def tied(self) -> bool:
        """Whether the last kernel of the language head is the transposed word embeddings."""
        ...


class Config(Protocol):
    """The interface of every family's config, a frozen dataclass with the fields of its config.json."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    beyond_shape: ClassVar[tuple[str, ...]]
    """the names of the fields that change what the model computes without dropout, but not its shape"""

    @property
    def shape(self) -> Sizes:
        """The sizes and rates under names common to all families."""
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

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together, where each field alone is valid."""
        ...

    def positions(self, ids: jax.Array, mask: Array, places: int = 0) -> jax.Array:
        """Return the position ids [1 or B, T] of a text after `places` virtual tokens."""
        ...


class HeadMaker(Protocol):
    """Constructor of a head's linen module, pooled [B, D] -> [B, C]."""

    def __call__(self, *, classes: int, name: str | None = None) -> nn.Module:
        """Return a head with C = `classes` outputs."""
        ...


def as_format(x: jax.Array, dtype: Format) -> jax.Array:
    """Return `x` in the format `dtype`; float64 arrays, which only tests have, stay so beside float32."""
    return x.astype(dtype if dtype == "bfloat16" else wide(x.dtype))


def matmul(x: jax.Array, kernel: jax.Array, dtype: Format = "float32", result: DTypeLike | None = None) -> jax.Array:
    """Multiply x [..., in] by a kernel [in, out] as one product of two matrices in the format `dtype`.

    `result` is the dtype of the product, by default the same format. With more dimensions XLA on CPU would copy and
    transpose x and the output's gradient before it computes the kernel's gradient, which costs 5 % of a full step.
    """
    x, kernel = as_format(x, dtype), as_format(kernel, dtype)
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, preferred_element_type=result)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """y = x W + b, without b if not `use_bias`, plus a low-rank path if the parameter tree has one.

    x [..., in] -> [..., out]; leaves `kernel` [in, out], `bias` [out]. With `lora_a` [in, R] and `lora_b` [R, out]
    next to the kernel, y += lora_scale * (drop(x) a) b, where `lora_scale` is [] and the optional `lora_dropout` [] is
    the rate of a dropout that, as in PEFT, differs for every token and needs a seed. With `lora_gain` g [out], as in
    DoRA, y += (g - 1) * (drop(x) W) + g * lora_scale * (drop(x) a) b instead.
    The products are computed in the format `dtype`, which is that of the result; all leaves are float32, or a kernel
    in the format of a frozen base.
    References: Hu et al., LoRA, arXiv 2106.09685; Liu et al., DoRA, arXiv 2402.09353.
    """

    features: int
    use_bias: bool = True
    dtype: Format = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, seed: jax.Array | None = None) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.features))
        y = matmul(x, kernel, self.dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        y = y + self.side(x, kernel, seed) if self.has_variable("params", "lora_a") else y
        return as_format(y, self.dtype)

    def side(self, x: jax.Array, kernel: jax.Array, seed: jax.Array | None) -> jax.Array:
        a, b, scale = (self.get_variable("params", name) for name in ("lora_a", "lora_b", "lora_scale"))
        if seed is not None and self.has_variable("params", "lora_dropout"):
            x = drop(x, jax.lax.stop_gradient(self.get_variable("params", "lora_dropout")), seed, salt_of(self))
        side = matmul(matmul(x, a, self.dtype) * scale, b, self.dtype)
        if not self.has_variable("params", "lora_gain"):
            return side
        gain = self.get_variable("params", "lora_gain")
        return gain * side + (gain - 1.0) * matmul(x, kernel, self.dtype)


def norm(epsilon: float, name: str, use_bias: bool = True, dtype: Format = "float32") -> nn.LayerNorm:
    """Return flax's LayerNorm with this epsilon and exact variance, as in the checkpoints, unlike flax's defaults.

    It computes in float32; `dtype` is the format of its result.
    """
    result = jnp.bfloat16 if dtype == "bfloat16" else None
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, use_bias=use_bias, dtype=result, name=name)


class RMSNorm(nn.Module):
    """x / √(mean x² + epsilon) · (offset + scale), over the last axis in float32; leaf `scale` [D].

    The offset is 1 in Gemma, whose files hold the difference from 1. Reference: Zhang and Sennrich 2019, arXiv
    1910.07467.
    """

    epsilon: float
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        return (self.unscaled(x) * (self.offset + scale)).astype(x.dtype)

    def unscaled(self, x: jax.Array) -> jax.Array:
        """Return x / √(mean x² + epsilon) in float32."""
        x = x.astype(wide(x.dtype))
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)


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
