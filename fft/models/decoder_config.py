"""The fields that the configs of decoder families share, their DecoderShape, their head and their key table."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.core.batch import Array
from fft.models.decoder_shape import DecoderShape, LayerAttention
from fft.models.fields import (
    FULL,
    SLIDING,
    Activation,
    Depth,
    Positive,
    Rate,
    RopeFields,
    Size,
    Small,
    Switch,
    Token,
)
from fft.models.layers import Dense
from fft.models.reach import positions_of
from fft.models.rope import Rope
from fft.models.rope_fields import merged, rope_of, rope_problems


def alternating(period: int, depth: int) -> tuple[str, ...]:
    """Return the type of each layer where every `period`-th one has full attention, and the others a window."""
    return tuple(FULL if (i + 1) % period == 0 else SLIDING for i in range(depth))


class CausalConfig(ABC):
    """What follows from the shape of any causal model: lengths and positions of its texts, a head without dropout."""

    beyond_shape: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def shape(self) -> DecoderShape:
        """The sizes, rates and choices as a DecoderShape."""

    @property
    def max_positions(self) -> int:
        """The length of the longest text, in tokens."""
        return self.shape.positions

    @property
    def head_dropout(self) -> float:
        """0: a score head is not preceded by dropout."""
        return 0.0

    def positions(self, ids: jax.Array, mask: Array, places: int = 0) -> jax.Array:
        """Return the position ids [B, T]: from 0 in every segment of the mask, tokens higher by `places`."""
        return positions_of(jnp.asarray(mask)) + places * (jnp.asarray(mask) > 0)


@dataclass(frozen=True)
class DecoderConfig(CausalConfig):
    """The fields that Llama, Mistral, Qwen, SmolLM3 and Gemma share, with Llama's defaults.

    A family adds its own fields, and overrides `choices`, `windows` or `ropes` where they decide something.
    """

    vocab_size: Size = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Depth = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: Activation = "silu"
    max_position_embeddings: Size = 2048
    initializer_range: Small = 0.02
    rms_norm_eps: Small = 1e-6
    attention_dropout: Rate = 0.0
    tie_word_embeddings: Switch = False
    pad_token_id: Token | None = None
    rope_parameters: RopeFields | None = None
    rope_scaling: RopeFields | None = None
    rope_theta: Positive | None = None

    default_theta: ClassVar[float] = 10_000.0

    @property
    def shape(self) -> DecoderShape:
        """The sizes, rates and choices as a DecoderShape."""
        ropes, windows, scales = self.ropes(), self.windows(), self.scales()
        return DecoderShape(
            vocab=self.vocab_size,
            positions=self.max_position_embeddings,
            dim=self.hidden_size,
            depth=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads or self.num_attention_heads,
            width=self.width,
            mlp=self.intermediate_size,
            activation=self.activation,
            epsilon=self.rms_norm_eps,
            attention=tuple(map(LayerAttention, windows, ropes, scales)),
            pad=self.pad_token_id,
            tied=self.tie_word_embeddings,
            attention_dropout=self.attention_dropout,
            **self.choices(),
        )

    @property
    def width(self) -> int:
        """K, the width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def activation(self) -> str:
        """The activation of the MLP."""
        return self.hidden_act

    def choices(self) -> Mapping[str, Any]:
        """Return the fields of DecoderShape by which the family differs from Llama."""
        return {}

    def windows(self) -> tuple[int | None, ...]:
        """Return the window of each layer."""
        return (None,) * self.num_hidden_layers

    def types(self) -> tuple[str, ...]:
        """Return the type of each layer, where layers differ in their type."""
        return (FULL,) * self.num_hidden_layers

    def ropes(self) -> tuple[Rope | None, ...]:
        """Return the rotation of each layer."""
        return (self.rope(),) * self.num_hidden_layers

    def sliding(self, window: int | None, types: tuple[str, ...]) -> tuple[int | None, ...]:
        """Return `window` for the layers of sliding attention in `types`, None for the others."""
        return tuple(window if kind == SLIDING else None for kind in types)

    def scales(self) -> tuple[float, ...]:
        """Return the factor of the scores of each layer."""
        return (self.width**-0.5,) * self.num_hidden_layers

    def rope(self) -> Rope:
        """Return the rotation that the rope fields describe."""
        return self.rope_of(self.rope_fields()[FULL], self.default_theta)

    def rope_fields(self) -> dict[str, dict[str, Any]]:
        """Return the rope fields by type of layer; families with one rotation have it for full attention.

        Raises: ValueError for fields that contradict each other.
        """
        sources = {
            "rope_parameters": dict(self.rope_parameters or ()),
            "rope_scaling": dict(self.rope_scaling or ()),
            "": {} if self.rope_theta is None else {"rope_theta": self.rope_theta},
        }
        return {FULL: merged(sources)}

    def rope_of(self, given: Mapping[str, Any], theta: float) -> Rope:
        """Return the rotation of some rope fields; `theta` is the default."""
        return rope_of(given, self.width, self.max_position_embeddings, theta)

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        yield from rope_problems(self)
        groups = self.num_key_value_heads or self.num_attention_heads
        if self.num_attention_heads % groups:
            yield f"{self.num_attention_heads} attention heads are not a multiple of {groups} key-value heads"
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            yield f"the model width {self.hidden_size} is not a multiple of its {self.num_attention_heads} heads"
        if SLIDING in self.types() and not any(self.windows()):
            yield f"layer_types has {SLIDING}, but there is no window: check sliding_window and use_sliding_window"


class ScoreHead(nn.Module):
    """One dense layer without bias: pooled [B, D] -> [B, C]."""

    classes: int

    @nn.compact
    def __call__(self, pooled: jax.Array, seed: jax.Array | None) -> jax.Array:
        return Dense(self.classes, use_bias=False, name="out")(pooled, seed)


LAYER = "layers.{i}"
ATTENTION = (
    (f"{LAYER}.self_attn.q_proj", "layers/{i}/attention/query", "dense"),
    (f"{LAYER}.self_attn.k_proj", "layers/{i}/attention/key", "dense"),
    (f"{LAYER}.self_attn.v_proj", "layers/{i}/attention/value", "dense"),
    (f"{LAYER}.self_attn.q_norm", "layers/{i}/attention/query_norm", "norm"),
    (f"{LAYER}.self_attn.k_norm", "layers/{i}/attention/key_norm", "norm"),
    (f"{LAYER}.self_attn.o_proj", "layers/{i}/attention/out", "dense"),
)
MLP = (
    (f"{LAYER}.mlp.gate_proj", "layers/{i}/mlp/gate", "dense"),
    (f"{LAYER}.mlp.up_proj", "layers/{i}/mlp/up", "dense"),
    (f"{LAYER}.mlp.down_proj", "layers/{i}/mlp/down", "dense"),
)
ENDS = (("embed_tokens", "embed/word", "embed"), ("norm", "final_norm", "norm"))
BODY = (
    *ENDS,
    (f"{LAYER}.input_layernorm", "layers/{i}/attention_norm", "norm"),
    *ATTENTION,
    (f"{LAYER}.post_attention_layernorm", "layers/{i}/mlp_norm", "norm"),
    *MLP,
)
"""the key table of Llama, Mistral, Qwen and SmolLM3; a row counts where the model has its leaves"""
HEAD_ROWS = (("score", "out", "dense"),)
IGNORED = (r"lm_head\..*", r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
"""the language head, which sequence tasks do not read, and buffers of old versions"""
