"""The language head of a family: its description, and the linen module that computes the logits of the vocabulary.

Letters: D model, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.core.computation import Format, wide
from fft.models.decoder_shape import DecoderShape
from fft.models.layers import ACTIVATIONS, Config, Dense, Sizes, matmul, norm


@dataclass(frozen=True)
class Transform:
    """The layers of a masked-language head before its last one: norm(activation(dense(x)))."""

    activation: str
    epsilon: float
    dense_bias: bool = True
    norm_bias: bool = True


class Projection(nn.Module):
    """y = scale · (x W) + b: states x [..., D] -> logits [..., V], with b where `use_bias`.

    W is the transposed word embeddings [V, D] if they are given, else the leaf `kernel` [D, V]; b is the leaf `bias`
    [V]. The product is in the format `dtype`, its result in float32.
    """

    vocab: int
    use_bias: bool
    scale: float
    dtype: Format

    @nn.compact
    def __call__(self, x: jax.Array, embeddings: jax.Array | None) -> jax.Array:
        if embeddings is None:
            kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.vocab))
        else:
            kernel = embeddings.T
        logits = matmul(x, kernel, self.dtype, wide(x.dtype))
        logits = logits if self.scale == 1.0 else self.scale * logits
        return logits + self.param("bias", nn.initializers.zeros, (self.vocab,)) if self.use_bias else logits


class Unembed(nn.Module):
    """y = scale · (transform(x) W) + b, then cap · tanh(y / cap): states [..., D] -> logits [..., V].

    W is the transposed word `embeddings` [V, D] if the shape is `tied`, see Projection, whose leaves are its own.
    Transform, b and cap are left out where they are None or False.
    """

    shape: Sizes
    transform: Transform | None = None
    use_bias: bool = False
    scale: float = 1.0
    cap: float | None = None

    @property
    def has_leaves(self) -> bool:
        """Whether it has parameters of its own beside the word embeddings."""
        return self.transform is not None or self.use_bias or not self.shape.tied

    @nn.compact
    def __call__(self, states: jax.Array, embeddings: jax.Array) -> jax.Array:
        dim, vocab, x = self.shape.dim, self.shape.vocab, states
        if self.transform is not None:
            x = Dense(dim, self.transform.dense_bias, name="dense")(x)
            x = ACTIVATIONS[self.transform.activation](x)
            x = norm(self.transform.epsilon, "norm", self.transform.norm_bias)(x)
        project = Projection(vocab, self.use_bias, self.scale, self.shape.dtype, name="last")
        nn.share_scope(self, project)
        logits = project(x, embeddings if self.shape.tied else None)
        return logits if self.cap is None else self.cap * jnp.tanh(logits / self.cap)


class LanguageReadout(nn.Module):
    """`Unembed` under the path that it has in a complete model, as `Readout` for the other heads."""

    unembed: Unembed

    def __call__(self, states: jax.Array, embeddings: jax.Array) -> jax.Array:
        return self.unembed(states, embeddings)


class LanguageHead(NamedTuple):
    """The description of a family's language head, in its file.

    architecture: Hugging Face's class of a model with it; masked: whether it predicts masked tokens, else the next one;
    module: config -> its Unembed; rows: of the key table, a row counts where the module has its leaves; bias: the name
    of the last bias in files with tied embeddings, if it is not that of the last layer.
    """

    architecture: str
    masked: bool
    module: Callable[[Config], Unembed]
    rows: tuple[tuple[str, str, str], ...]
    bias: str | None = None


def next_token(architecture: str) -> LanguageHead:
    """Return the head of a decoder: one kernel, scale and cap as in its shape; `architecture` is as LanguageHead's."""
    return LanguageHead(architecture, False, _of_decoder, (("lm_head", "unembed", "dense"),))


def masked_head(config: Config, activation: str) -> Unembed:
    """Return the masked-language head of a post-norm encoder, with the epsilon of its norms and all biases."""
    return Unembed(config.shape, Transform(activation, config.shape.epsilon), use_bias=True)


def _of_decoder(config: Config) -> Unembed:
    shape = cast("DecoderShape", config.shape)
    return Unembed(shape, scale=shape.logit_scale, cap=shape.logit_cap)
