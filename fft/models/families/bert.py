"""BERT (Devlin et al., arXiv 1810.04805): config, Hugging Face's key names, sequence head."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.models.layers import Dense, Dropout, Shape
from fft.models.model import Family, Filling


@dataclass(frozen=True)
class BertConfig:
    """The fields of a BERT config.json that change the mathematics, under their own names and defaults."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    pooler = True

    @property
    def shape(self) -> Shape:
        """The sizes and rates as a layers.Shape."""
        return Shape(
            vocab=self.vocab_size,
            positions=self.max_position_embeddings,
            types=self.type_vocab_size,
            dim=self.hidden_size,
            depth=self.num_hidden_layers,
            heads=self.num_attention_heads,
            mlp=self.intermediate_size,
            activation=self.hidden_act,
            epsilon=self.layer_norm_eps,
            dropout=self.hidden_dropout_prob,
            attention_dropout=self.attention_probs_dropout_prob,
            pooler=self.pooler,
        )

    @property
    def max_positions(self) -> int:
        """The length of the longest text, in tokens."""
        return self.max_position_embeddings

    @property
    def head_dropout(self) -> float:
        """classifier_dropout, or the hidden rate if it is None."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    def positions(self, ids: jax.Array, places: int = 0) -> jax.Array:
        """Return the position ids [1, T] after `places` virtual tokens: `places`, `places` + 1, ..."""
        return places + jnp.arange(ids.shape[1])[None]


class BertHead(nn.Module):
    """Dropout, then one dense layer: pooled [B, D] -> [B, C]."""

    rate: float
    classes: int

    @nn.compact
    def __call__(self, pooled: jax.Array, seed: jax.Array | None) -> jax.Array:
        return Dense(self.classes, name="out")(Dropout(self.rate)(pooled, seed), seed)


LAYER = "encoder.layer.{i}"

BODY = (
    ("embeddings.word_embeddings", "embed/word", "embed"),
    ("embeddings.position_embeddings", "embed/position", "embed"),
    ("embeddings.token_type_embeddings", "embed/type", "embed"),
    ("embeddings.LayerNorm", "embed/norm", "norm"),
    (f"{LAYER}.attention.self.query", "layers/{i}/attention/query", "dense"),
    (f"{LAYER}.attention.self.key", "layers/{i}/attention/key", "dense"),
    (f"{LAYER}.attention.self.value", "layers/{i}/attention/value", "dense"),
    (f"{LAYER}.attention.output.dense", "layers/{i}/attention/out", "dense"),
    (f"{LAYER}.attention.output.LayerNorm", "layers/{i}/attention_norm", "norm"),
    (f"{LAYER}.intermediate.dense", "layers/{i}/mlp/up", "dense"),
    (f"{LAYER}.output.dense", "layers/{i}/mlp/down", "dense"),
    (f"{LAYER}.output.LayerNorm", "layers/{i}/mlp_norm", "norm"),
)

FAMILY = Family(
    name="bert",
    prefix="bert",
    architecture="Bert",
    config=BertConfig,
    body=(*BODY, ("pooler.dense", "pooler", "dense")),
    head_rows=(("classifier", "out", "dense"),),
    ignored=(r"embeddings\.(position|token_type)_ids", r"cls\..*", r"lm_head\..*"),
    head=lambda config: partial(BertHead, config.head_dropout),
    filling=Filling(
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        bias="cls.predictions.bias",
        decoder="cls.predictions.decoder",
        activation=lambda config: config.shape.activation,
    ),
)
