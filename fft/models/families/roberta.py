"""RoBERTa (Liu et al., arXiv 1907.11692): BERT's blocks, positions counted from the padding id, its own head."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from fft.core.batch import Array
from fft.models.dropout import Dropout
from fft.models.encoder import Encoder
from fft.models.families.bert import BODY, BertConfig
from fft.models.language import LanguageHead, masked_head
from fft.models.layers import Dense
from fft.models.model import Family


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """The fields of a RoBERTa config.json that change the mathematics, under their own names and defaults."""

    vocab_size: int = 50265
    pad_token_id: int = 1

    pooler = False
    beyond_shape: ClassVar[tuple[str, ...]] = ("pad_token_id",)

    @property
    def max_positions(self) -> int:
        """The length of the longest text, in tokens: the first pad_token_id + 1 rows of the table are for padding."""
        return self.max_position_embeddings - self.pad_token_id - 1

    def positions(self, ids: jax.Array, mask: Array, places: int = 0) -> jax.Array:
        """Return the position ids [B, T]: pad + 1, pad + 2, ... for tokens, pad for padding.

        After `places` virtual tokens the ids of tokens are higher by `places`.
        """
        real = (ids != self.pad_token_id).astype(jnp.int32)
        return (places + jnp.cumsum(real, axis=1)) * real + self.pad_token_id


class RobertaHead(nn.Module):
    """Dropout, dense layer, tanh, dropout, dense layer: first token [B, D] -> [B, C]."""

    rate: float
    classes: int

    @nn.compact
    def __call__(self, pooled: jax.Array, seed: jax.Array | None) -> jax.Array:
        x = Dropout(self.rate)(pooled, seed)
        x = jnp.tanh(Dense(pooled.shape[-1], name="dense")(x, seed))
        return Dense(self.classes, name="out")(Dropout(self.rate)(x, seed), seed)


FAMILY = Family(
    name="roberta",
    prefix="roberta",
    architecture="Roberta",
    network=Encoder,
    config=RobertaConfig,
    body=BODY,
    head_rows=(("classifier.dense", "dense", "dense"), ("classifier.out_proj", "out", "dense")),
    ignored=(r"embeddings\.(position|token_type)_ids", r"pooler\..*", r"cls\..*", r"lm_head\..*"),
    head=lambda config: partial(RobertaHead, config.head_dropout),
    language=LanguageHead(
        architecture="RobertaForMaskedLM",
        masked=True,
        module=lambda config: masked_head(config, "gelu"),
        rows=(
            ("lm_head.dense", "unembed/dense", "dense"),
            ("lm_head.layer_norm", "unembed/norm", "norm"),
            ("lm_head.decoder", "unembed", "dense"),
        ),
        bias="lm_head.bias",
    ),
)
