"""Mistral (Jiang et al., arXiv 2310.06825): Llama with a window over which all layers attend."""

from dataclasses import dataclass

from fft.models.decoder_config import DecoderConfig
from fft.models.families import llama
from fft.models.fields import Size
from fft.models.language import next_token


@dataclass(frozen=True)
class MistralConfig(DecoderConfig):
    """The fields of a Mistral config.json that change the mathematics, under their own names and defaults."""

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Size = 4096 * 32
    sliding_window: Size | None = 4096

    def windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers


FAMILY = llama.FAMILY._replace(
    name="mistral",
    architecture="Mistral",
    config=MistralConfig,
    language=next_token("MistralForCausalLM"),
)
