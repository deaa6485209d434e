"""BERT (Devlin et al., arXiv 1810.04805): config, Hugging Face's key names, sequence head."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.core.batch import Array
from fft.models.dropout import Dropout
from fft.models.encoder import Encoder, EncoderShape, problems_of
from fft.models.fields import Activation, Depth, Rate, Size, Small, Switch, Token
from fft.models.language import LanguageHead, masked_head
from fft.models.layers import Dense
from fft.models.model import Family


@dataclass(frozen=True)
class BertConfig:
    """The fields of a BERT config.json that change the mathematics, under their own names and defaults."""

    vocab_size: Size = 30522
    hidden_size: Size = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    classifier_dropout: Rate | None = None
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    layer_norm_eps: Small = 1e-12
    initializer_range: Small = 0.02
    pad_token_id: Token | None = 0
    tie_word_embeddings: Switch = True

    pooler = True
    beyond_shape: ClassVar[tuple[str, ...]] = ()

    @property
    def shape(self) -> EncoderShape:
        """The sizes and rates as an EncoderShape."""
        return EncoderShape(
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
            tied=self.tie_word_embeddings,
        )

    @property
    def max_positions(self) -> int:
        """The length of the longest text, in tokens."""
        return self.max_position_embeddings

    @property
    def head_dropout(self) -> float:
        """classifier_dropout, or the hidden rate if it is None."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        return problems_of(self)

    def positions(self, ids: jax.Array, mask: Array, places: int = 0) -> jax.Array:
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
    network=Encoder,
    config=BertConfig,
    body=(*BODY, ("pooler.dense", "pooler", "dense")),
    head_rows=(("classifier", "out", "dense"),),
    ignored=(r"embeddings\.(position|token_type)_ids", r"cls\..*", r"lm_head\..*"),
    head=lambda config: partial(BertHead, config.head_dropout),
    language=LanguageHead(
        architecture="BertForMaskedLM",
        masked=True,
        module=lambda config: masked_head(config, config.shape.activation),
        rows=(
            ("cls.predictions.transform.dense", "unembed/dense", "dense"),
            ("cls.predictions.transform.LayerNorm", "unembed/norm", "norm"),
            ("cls.predictions.decoder", "unembed", "dense"),
        ),
        bias="cls.predictions.bias",
    ),
)
