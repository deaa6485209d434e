"""Qwen3 (Qwen team, arXiv 2505.09388): Qwen2 with norms of queries and keys per head, and optional biases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fft.models.families import llama
from fft.models.families.qwen2 import Qwen2Config
from fft.models.fields import Size, Switch
from fft.models.language import next_token


@dataclass(frozen=True)
class Qwen3Config(Qwen2Config):
    """The fields of a Qwen3 config.json that change the mathematics, under their own names and defaults."""

    head_dim: Size | None = 128
    attention_bias: Switch = False

    def choices(self) -> Mapping[str, Any]:
        return {"qkv_bias": self.attention_bias, "out_bias": self.attention_bias, "norm_heads": True}


FAMILY = llama.FAMILY._replace(
    name="qwen3",
    architecture="Qwen3",
    config=Qwen3Config,
    language=next_token("Qwen3ForCausalLM"),
)
