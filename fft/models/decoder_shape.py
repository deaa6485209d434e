"""Sizes, rates and choices of a decoder: `DecoderShape`, and what differs between its layers, `LayerAttention`."""

from dataclasses import dataclass
from typing import Literal

from fft.core.computation import Format
from fft.models.rope import Rope


@dataclass(frozen=True)
class LayerAttention:
    """What differs between the attention of layers: reach, rotation, and the factor of the scores."""

    window: int | None
    """a token attends to tokens at a distance below this, before it or on both sides; None for no limit"""
    rope: Rope | None
    """None: the layer sees no positions"""
    scale: float
    """the scores are scale · q kᵀ"""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes, rates and choices of a decoder under names common to all families."""

    vocab: int
    positions: int
    dim: int
    depth: int
    heads: int
    kv_heads: int
    width: int
    """K, the width of a head"""
    mlp: int
    activation: str
    epsilon: float
    attention: tuple[LayerAttention, ...]
    """one for each layer"""
    pad: int | None
    """the id that ends a row for sequence heads, see `last_token`; None: the mask says where it ends"""
    causal: bool = True
    """whether a token attends only to itself and those before it"""
    pooling: Literal["last", "first", "mean"] = "last"
    """the pooled state: that of the last or first token, or the mean of all tokens"""
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    """RMSNorm multiplies by offset + scale"""
    norm_bias: bool = True
    """of LayerNorm"""
    norm_embed: bool = False
    """whether the embeddings are normalized"""
    norm_first: bool = True
    """whether the first block normalizes the input of its attention"""
    norm_before: bool = True
    """whether the inputs of attention and MLP are normalized"""
    norm_after: bool = False
    """whether the outputs of attention and MLP are normalized, before they are added"""
    norm_heads: bool = False
    """whether queries and keys are normalized per head"""
    norm_whole: bool = False
    """whether queries and keys are normalized over all heads at once"""
    gated: bool = True
    """whether the MLP is down(activation(gate(x)) · up(x)), else down(activation(up(x)))"""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    learned_positions: bool = False
    embed_scale: float = 1.0
    scales_virtual: bool = True
    """whether embed_scale multiplies virtual tokens too, and not word embeddings alone"""
    residual_scale: float = 1.0
    """the outputs of attention and MLP are multiplied by this before they are added"""
    tied: bool = False
    """whether the last kernel of the language head is the word embeddings"""
    logit_scale: float = 1.0
    """logits of the language head are multiplied by this, before a cap"""
    logit_cap: float | None = None
    """logits z of the language head become cap · tanh(z / cap)"""
    score_cap: float | None = None
    """scores s become cap · tanh(s / cap)"""
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0
    """of the attention probabilities"""
    attention_out_dropout: float = 0.0
    mlp_dropout: float = 0.0
    """of the input of the MLP's last layer"""
    mlp_out_dropout: float = 0.0
    types: int = 0
    dtype: Format = "float32"
    remat: bool = False
