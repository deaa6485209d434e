"""Qwen2 and Qwen2.5 (Qwen team, arXiv 2407.10671): Llama with biases of query, key and value; Qwen3 adds to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fft.models.decoder_config import DecoderConfig
from fft.models.families import llama
from fft.models.fields import FULL, SLIDING, LayerTypes, Size, Switch, Whole
from fft.models.language import next_token


@dataclass(frozen=True)
class Qwen2Config(DecoderConfig):
    """The fields of a Qwen2 config.json that change the mathematics, under their own names and defaults."""

    vocab_size: Size = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Size | None = 32
    max_position_embeddings: Size = 32768
    use_sliding_window: Switch = False
    sliding_window: Size | None = 4096
    max_window_layers: Whole = 28
    layer_types: LayerTypes | None = None

    def choices(self) -> Mapping[str, Any]:
        return {"qkv_bias": True}

    def windows(self) -> tuple[int | None, ...]:
        return self.sliding(self.sliding_window if self.use_sliding_window else None, self.types())

    def types(self) -> tuple[str, ...]:
        """Return the type of each layer: those from max_window_layers on use the window."""
        if self.layer_types is not None:
            return self.layer_types
        slides = self.use_sliding_window and self.sliding_window is not None
        return tuple(SLIDING if slides and i >= self.max_window_layers else FULL for i in range(self.num_hidden_layers))


FAMILY = llama.FAMILY._replace(
    name="qwen2",
    architecture="Qwen2",
    config=Qwen2Config,
    language=next_token("Qwen2ForCausalLM"),
)
