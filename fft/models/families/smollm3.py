"""SmolLM3 (Hugging Face, 2025): Llama in which every fourth layer has no rotary positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fft.models.decoder_config import DecoderConfig
from fft.models.families import llama
from fft.models.fields import FULL, SLIDING, Depth, Flags, LayerTypes, Size, Switch, Token
from fft.models.language import next_token
from fft.models.rope import Rope


@dataclass(frozen=True)
class SmolLM3Config(DecoderConfig):
    """The fields of a SmolLM3 config.json that change the mathematics, under their own names and defaults."""

    vocab_size: Size = 128256
    hidden_size: Size = 2048
    num_hidden_layers: Depth = 36
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 4
    max_position_embeddings: Size = 32768
    tie_word_embeddings: Switch = True
    pad_token_id: Token | None = 128004
    use_sliding_window: Switch = False
    sliding_window: Size | None = None
    no_rope_layers: Flags | None = None
    no_rope_layer_interval: Size = 4
    layer_types: LayerTypes | None = None
    attention_bias: Switch = False
    mlp_bias: Switch = False

    default_theta: ClassVar[float] = 2_000_000.0

    def choices(self) -> Mapping[str, Any]:
        return {"qkv_bias": self.attention_bias, "out_bias": self.attention_bias, "mlp_bias": self.mlp_bias}

    def turns(self) -> tuple[bool, ...]:
        """Return whether each layer has rotary positions."""
        if self.no_rope_layers is not None:
            return tuple(map(bool, self.no_rope_layers))
        return tuple((i + 1) % self.no_rope_layer_interval != 0 for i in range(self.num_hidden_layers))

    def ropes(self) -> tuple[Rope | None, ...]:
        return tuple(self.rope() if turns else None for turns in self.turns())

    def windows(self) -> tuple[int | None, ...]:
        return self.sliding(self.sliding_window if self.use_sliding_window else None, self.types())

    def types(self) -> tuple[str, ...]:
        """Return the type of each layer: those without rotary positions use the window, if there is one."""
        if self.layer_types is not None:
            return self.layer_types
        slides = self.use_sliding_window and self.sliding_window is not None
        return tuple(SLIDING if slides and not turns else FULL for turns in self.turns())


FAMILY = llama.FAMILY._replace(
    name="smollm3",
    architecture="SmolLM3",
    config=SmolLM3Config,
    language=next_token("SmolLM3ForCausalLM"),
)
