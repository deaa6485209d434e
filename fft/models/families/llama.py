"""Llama 1 to 3 (Touvron et al., arXiv 2302.13971; Llama team, arXiv 2407.21783), TinyLlama and SmolLM2."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fft.models.decoder import Decoder
from fft.models.decoder_config import BODY, HEAD_ROWS, IGNORED, DecoderConfig, ScoreHead
from fft.models.fields import Switch
from fft.models.language import next_token
from fft.models.model import Family


@dataclass(frozen=True)
class LlamaConfig(DecoderConfig):
    """The fields of a Llama config.json that change the mathematics, under their own names and defaults."""

    attention_bias: Switch = False
    mlp_bias: Switch = False

    def choices(self) -> Mapping[str, Any]:
        return {"qkv_bias": self.attention_bias, "out_bias": self.attention_bias, "mlp_bias": self.mlp_bias}


FAMILY = Family(
    name="llama",
    prefix="model",
    architecture="Llama",
    network=Decoder,
    config=LlamaConfig,
    body=BODY,
    head_rows=HEAD_ROWS,
    language=next_token("LlamaForCausalLM"),
    ignored=IGNORED,
    head=lambda config: ScoreHead,
)
