"""Granite (IBM, 2024): Llama with four multipliers: of embeddings, attention scores, block outputs and logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fft.models.families import llama
from fft.models.families.llama import LlamaConfig
from fft.models.fields import Positive
from fft.models.language import next_token


@dataclass(frozen=True)
class GraniteConfig(LlamaConfig):
    """The fields of a Granite config.json that change the mathematics, under their own names and defaults."""

    embedding_multiplier: Positive = 1.0
    attention_multiplier: Positive = 1.0
    """the factor of the scores, in place of 1 / √K"""
    residual_multiplier: Positive = 1.0
    logits_scaling: Positive = 1.0
    """the logits of the language head are divided by it"""

    def choices(self) -> Mapping[str, Any]:
        return {
            **super().choices(),
            "embed_scale": self.embedding_multiplier,
            "residual_scale": self.residual_multiplier,
            "logit_scale": 1 / self.logits_scaling,
        }

    def scales(self) -> tuple[float, ...]:
        return (self.attention_multiplier,) * self.num_hidden_layers


FAMILY = llama.FAMILY._replace(
    name="granite",
    architecture="Granite",
    config=GraniteConfig,
    language=next_token("GraniteForCausalLM"),
)
