"""Gemma 1 (Gemma team, arXiv 2403.08295): scaled embeddings, norms that multiply by 1 + w, a GELU gate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fft.models.decoder_config import DecoderConfig
from fft.models.families import llama
from fft.models.fields import Activation, Depth, Off, Size, Switch, Token
from fft.models.language import next_token

LEGACY = {"gelu": "gelu_pytorch_tanh"}
"""what the first files call the tanh approximation"""


@dataclass(frozen=True)
class GemmaConfig(DecoderConfig):
    """The fields of a Gemma config.json that change the mathematics, under their own names and defaults."""

    vocab_size: Size = 256000
    hidden_size: Size = 3072
    intermediate_size: Size = 24576
    num_hidden_layers: Depth = 28
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 16
    head_dim: Size | None = 256
    hidden_act: Activation = "gelu_pytorch_tanh"
    hidden_activation: Activation | None = None
    max_position_embeddings: Size = 8192
    tie_word_embeddings: Switch = True
    pad_token_id: Token | None = 0
    attention_bias: Switch = False
    use_bidirectional_attention: Off | None = None

    @property
    def activation(self) -> str:
        return LEGACY.get(self.hidden_act, self.hidden_act)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        other = self.hidden_activation
        if other is not None and LEGACY.get(other, other) != self.activation:
            yield f"hidden_act is {self.hidden_act!r}, but hidden_activation is {other!r}"

    def choices(self) -> Mapping[str, Any]:
        return {
            "qkv_bias": self.attention_bias,
            "out_bias": self.attention_bias,
            "norm_offset": 1.0,
            "embed_scale": self.hidden_size**0.5,
            "scales_virtual": False,
        }


FAMILY = llama.FAMILY._replace(
    name="gemma",
    architecture="Gemma",
    config=GemmaConfig,
    language=next_token("GemmaForCausalLM"),
)
