"""Mistral (Jiang et al., arXiv 2310.06825): Llama with a window over which all layers attend."""

from dataclasses import dataclass
from functools import partial

from fft.models.decoder import Decoder
from fft.models.decoder_config import BODY, HEAD_ROWS, IGNORED, DecoderConfig, ScoreHead
from fft.models.fields import Size
from fft.models.model import Family


@dataclass(frozen=True)
class MistralConfig(DecoderConfig):
    """The fields of a Mistral config.json that change the mathematics, under their own names and defaults."""

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Size = 4096 * 32
    sliding_window: Size | None = 4096

    def windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers


FAMILY = Family(
    name="mistral",
    prefix="model",
    architecture="Mistral",
    network=Decoder,
    config=MistralConfig,
    body=BODY,
    head_rows=HEAD_ROWS,
    language="MistralForCausalLM",
    ignored=IGNORED,
    head=lambda config: partial(ScoreHead, config.head_dropout),
)
