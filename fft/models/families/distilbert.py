"""DistilBERT (Sanh et al., arXiv 1910.01108): BERT's blocks without token types or pooler, under other names."""

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
class DistilBertConfig:
    """The fields of a DistilBERT config.json that change the mathematics, under their own names and defaults.

    `sinusoidal_pos_embds` says only how the position table was initialized; the checkpoint contains the table.
    """

    vocab_size: Size = 30522
    max_position_embeddings: Size = 512
    sinusoidal_pos_embds: bool = False
    n_layers: Depth = 6
    n_heads: Size = 12
    dim: Size = 768
    hidden_dim: Size = 3072
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    seq_classif_dropout: Rate = 0.2
    activation: Activation = "gelu"
    initializer_range: Small = 0.02
    pad_token_id: Token | None = 0
    tie_word_embeddings: Switch = True

    beyond_shape: ClassVar[tuple[str, ...]] = ()

    @property
    def shape(self) -> EncoderShape:
        """The sizes and rates as an EncoderShape; DistilBERT's norms have a fixed epsilon."""
        return EncoderShape(
            vocab=self.vocab_size,
            positions=self.max_position_embeddings,
            types=0,
            dim=self.dim,
            depth=self.n_layers,
            heads=self.n_heads,
            mlp=self.hidden_dim,
            activation=self.activation,
            epsilon=1e-12,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            pooler=False,
            tied=self.tie_word_embeddings,
        )

    @property
    def max_positions(self) -> int:
        """The length of the longest text, in tokens."""
        return self.max_position_embeddings

    @property
    def head_dropout(self) -> float:
        """The dropout rate in the head, seq_classif_dropout."""
        return self.seq_classif_dropout

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        return problems_of(self)

    def positions(self, ids: jax.Array, mask: Array, places: int = 0) -> jax.Array:
        """Return the position ids [1, T] after `places` virtual tokens: `places`, `places` + 1, ..."""
        return places + jnp.arange(ids.shape[1])[None]


class DistilBertHead(nn.Module):
    """Dense layer, relu, dropout, dense layer: first token [B, D] -> [B, C]."""

    rate: float
    classes: int

    @nn.compact
    def __call__(self, pooled: jax.Array, seed: jax.Array | None) -> jax.Array:
        x = jax.nn.relu(Dense(pooled.shape[-1], name="dense")(pooled, seed))
        return Dense(self.classes, name="out")(Dropout(self.rate)(x, seed), seed)


LAYER = "transformer.layer.{i}"

FAMILY = Family(
    name="distilbert",
    prefix="distilbert",
    architecture="DistilBert",
    network=Encoder,
    config=DistilBertConfig,
    body=(
        ("embeddings.word_embeddings", "embed/word", "embed"),
        ("embeddings.position_embeddings", "embed/position", "embed"),
        ("embeddings.LayerNorm", "embed/norm", "norm"),
        (f"{LAYER}.attention.q_lin", "layers/{i}/attention/query", "dense"),
        (f"{LAYER}.attention.k_lin", "layers/{i}/attention/key", "dense"),
        (f"{LAYER}.attention.v_lin", "layers/{i}/attention/value", "dense"),
        (f"{LAYER}.attention.out_lin", "layers/{i}/attention/out", "dense"),
        (f"{LAYER}.sa_layer_norm", "layers/{i}/attention_norm", "norm"),
        (f"{LAYER}.ffn.lin1", "layers/{i}/mlp/up", "dense"),
        (f"{LAYER}.ffn.lin2", "layers/{i}/mlp/down", "dense"),
        (f"{LAYER}.output_layer_norm", "layers/{i}/mlp_norm", "norm"),
    ),
    head_rows=(("pre_classifier", "dense", "dense"), ("classifier", "out", "dense")),
    ignored=(r"embeddings\.position_ids", r"vocab_(transform|layer_norm|projector)\..*"),
    head=lambda config: partial(DistilBertHead, config.head_dropout),
    language=LanguageHead(
        architecture="DistilBertForMaskedLM",
        masked=True,
        module=lambda config: masked_head(config, config.shape.activation),
        rows=(
            ("vocab_transform", "unembed/dense", "dense"),
            ("vocab_layer_norm", "unembed/norm", "norm"),
            ("vocab_projector", "unembed", "dense"),
        ),
    ),
)
