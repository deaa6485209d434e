"""ModernBERT (Warner et al., arXiv 2412.13663): a pre-norm encoder, rotary positions, local and global attention."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fft.core.batch import Array
from fft.models.decoder import Decoder
from fft.models.decoder_shape import DecoderShape, LayerAttention
from fft.models.dropout import Dropout
from fft.models.fields import (
    FULL,
    SLIDING,
    Activation,
    Depth,
    LayerTypes,
    Positive,
    Rate,
    RopeFields,
    Size,
    Small,
    Switch,
    Token,
    Valid,
)
from fft.models.files.stacked import join_rows, split_rows
from fft.models.language import LanguageHead, Transform, Unembed
from fft.models.layers import ACTIVATIONS, Config, Dense, norm
from fft.models.model import Family
from fft.models.rope_fields import merged, nested_rope, rope_of, rope_problems

THETAS = {FULL: 160_000.0, SLIDING: 10_000.0}
POOLING: dict[str, Literal["first", "mean"]] = {"cls": "first", "mean": "mean"}
Pooling = Annotated[str, Valid("cls or mean", lambda value, _: value in tuple(POOLING))]


@dataclass(frozen=True)
class ModernBertConfig:
    """The fields of a ModernBERT config.json that change the mathematics, under their own names and defaults.

    Local and global layers have rope fields of their own: nested in rope_parameters, or in old files local_rope_theta
    and global_rope_theta.
    """

    vocab_size: Size = 50368
    hidden_size: Size = 768
    intermediate_size: Size = 1152
    num_hidden_layers: Depth = 22
    num_attention_heads: Size = 12
    hidden_activation: Activation = "gelu"
    max_position_embeddings: Size = 8192
    initializer_range: Small = 0.02
    norm_eps: Small = 1e-5
    norm_bias: Switch = False
    pad_token_id: Token | None = 50283
    attention_bias: Switch = False
    attention_dropout: Rate = 0.0
    layer_types: LayerTypes | None = None
    global_attn_every_n_layers: Size = 3
    local_attention: Size = 128
    rope_parameters: RopeFields | None = None
    rope_scaling: RopeFields | None = None
    global_rope_theta: Positive = THETAS[FULL]
    local_rope_theta: Positive = THETAS[SLIDING]
    embedding_dropout: Rate = 0.0
    mlp_bias: Switch = False
    mlp_dropout: Rate = 0.0
    decoder_bias: Switch = True
    tie_word_embeddings: Switch = True
    classifier_pooling: Pooling = "cls"
    classifier_dropout: Rate = 0.0
    classifier_bias: Switch = False
    classifier_activation: Activation = "gelu"
    layer_norm_eps: Any = None
    """in the published files beside norm_eps, but without effect"""

    beyond_shape: ClassVar[tuple[str, ...]] = ("classifier_activation", "classifier_bias")

    @property
    def shape(self) -> DecoderShape:
        """The sizes, rates and choices as a DecoderShape."""
        given, scale = self.rope_fields(), self.width**-0.5
        reach = {FULL: None, SLIDING: self.local_attention // 2 + 1}
        ropes = {
            kind: rope_of(given[kind], self.width, self.max_position_embeddings, theta)
            for kind, theta in THETAS.items()
        }
        return DecoderShape(
            vocab=self.vocab_size,
            positions=self.max_position_embeddings,
            dim=self.hidden_size,
            depth=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_attention_heads,
            width=self.width,
            mlp=self.intermediate_size,
            activation=self.hidden_activation,
            epsilon=self.norm_eps,
            attention=tuple(LayerAttention(reach[kind], ropes[kind], scale) for kind in self.types()),
            pad=self.pad_token_id,
            tied=self.tie_word_embeddings,
            causal=False,
            pooling=POOLING[self.classifier_pooling],
            norm="layer",
            norm_bias=self.norm_bias,
            norm_embed=True,
            norm_first=False,
            qkv_bias=self.attention_bias,
            out_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            embed_dropout=self.embedding_dropout,
            attention_dropout=self.attention_dropout,
            attention_out_dropout=self.attention_dropout,
            mlp_dropout=self.mlp_dropout,
        )

    @property
    def width(self) -> int:
        """K, the width of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_positions(self) -> int:
        """The length of the longest text, in tokens."""
        return self.max_position_embeddings

    @property
    def head_dropout(self) -> float:
        """classifier_dropout."""
        return self.classifier_dropout

    def types(self) -> tuple[str, ...]:
        """Return the type of each layer: from the first on, every n-th has full attention, and the others a window."""
        period = self.global_attn_every_n_layers
        return self.layer_types or tuple(SLIDING if i % period else FULL for i in range(self.num_hidden_layers))

    def rope_fields(self) -> dict[str, dict[str, Any]]:
        """Return the rope fields by type of layer; rope_scaling is for both.

        An old theta contradicts one in rope_parameters only if it is not the default, which older files spell out.
        Raises: ValueError for fields that contradict each other.
        """
        nested, scaling = nested_rope(self.rope_parameters), dict(self.rope_scaling or ())

        def of(kind: str, name: str, theta: float) -> dict[str, Any]:
            old = {} if theta == THETAS[kind] else {"rope_theta": theta}
            return merged({"rope_parameters": nested[kind], "rope_scaling": scaling, name: old})

        return {
            FULL: of(FULL, "global_rope_theta", self.global_rope_theta),
            SLIDING: of(SLIDING, "local_rope_theta", self.local_rope_theta),
        }

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        if self.hidden_size % self.num_attention_heads:
            yield f"the model width {self.hidden_size} is not a multiple of its {self.num_attention_heads} heads"
        yield from rope_problems(self)

    def positions(self, ids: jax.Array, mask: Array, places: int = 0) -> jax.Array:
        """Return the position ids [B, T]: 0, 1, ... in every row, with padding, after `places` virtual tokens."""
        return jnp.broadcast_to(places + jnp.arange(ids.shape[1]), ids.shape)


class ModernBertHead(nn.Module):
    """Dense layer, activation, norm, dropout, dense layer: pooled [B, D] -> [B, C]."""

    config: ModernBertConfig
    classes: int

    @nn.compact
    def __call__(self, pooled: jax.Array, seed: jax.Array | None) -> jax.Array:
        config = self.config
        x = Dense(pooled.shape[-1], config.classifier_bias, name="dense")(pooled, seed)
        x = norm(config.norm_eps, "norm", config.norm_bias)(ACTIVATIONS[config.classifier_activation](x))
        return Dense(self.classes, name="out")(Dropout(config.head_dropout)(x, seed), seed)


LAYER = "layers.{i}"
BODY = (
    ("embeddings.tok_embeddings", "embed/word", "embed"),
    ("embeddings.norm", "embed/norm", "norm"),
    (f"{LAYER}.attn_norm", "layers/{i}/attention_norm", "norm"),
    (f"{LAYER}.attn.query", "layers/{i}/attention/query", "dense"),
    (f"{LAYER}.attn.key", "layers/{i}/attention/key", "dense"),
    (f"{LAYER}.attn.value", "layers/{i}/attention/value", "dense"),
    (f"{LAYER}.attn.Wo", "layers/{i}/attention/out", "dense"),
    (f"{LAYER}.mlp_norm", "layers/{i}/mlp_norm", "norm"),
    (f"{LAYER}.mlp.gate", "layers/{i}/mlp/gate", "dense"),
    (f"{LAYER}.mlp.up", "layers/{i}/mlp/up", "dense"),
    (f"{LAYER}.mlp.Wo", "layers/{i}/mlp/down", "dense"),
    ("final_norm", "final_norm", "norm"),
)
HEAD_ROWS = (("head.dense", "dense", "dense"), ("head.norm", "norm", "norm"), ("classifier", "out", "dense"))
STACKED = {
    ".attn.Wqkv.": (".attn.query.", ".attn.key.", ".attn.value."),
    ".mlp.Wi.": (".mlp.gate.", ".mlp.up."),
}
"""the first half of Wi is the one that is activated, our gate; transformers calls the other one so"""


def split(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors with the parts of fused ones apart.

    The classifier's `head` bears the names of the masked-language head's first layers, and is left out without one.
    """
    apart = split_rows(tensors, STACKED)
    if any(name.startswith("classifier.") for name in apart):
        return apart
    return {name: value for name, value in apart.items() if not name.startswith("head.")}


def join(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors as ModernBERT's files have them."""
    return join_rows(tensors, STACKED)


def _masked_head(config: Config) -> Unembed:
    config = cast("ModernBertConfig", config)
    transform = Transform(
        config.classifier_activation, config.norm_eps, dense_bias=config.classifier_bias, norm_bias=config.norm_bias
    )
    return Unembed(config.shape, transform, use_bias=config.decoder_bias)


FAMILY = Family(
    name="modernbert",
    prefix="model",
    architecture="ModernBert",
    network=Decoder,
    config=ModernBertConfig,
    body=BODY,
    head_rows=HEAD_ROWS,
    ignored=(r"decoder\..*", r"(layers\.\d+\.attn\.)?rotary_emb\..*"),
    head=lambda config: partial(ModernBertHead, config),
    language=LanguageHead(
        architecture="ModernBertForMaskedLM",
        masked=True,
        module=_masked_head,
        rows=(
            ("head.dense", "unembed/dense", "dense"),
            ("head.norm", "unembed/norm", "norm"),
            ("decoder", "unembed", "dense"),
        ),
    ),
    split=split,
    join=join,
    stacks=tuple(STACKED.items()),
)
