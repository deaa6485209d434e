"""Gemma 2 (Gemma team, arXiv 2408.00118): norms before and after, capped scores, every second layer local."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fft.models.decoder_config import ATTENTION, ENDS, LAYER, MLP, DecoderConfig, alternating
from fft.models.families import llama
from fft.models.fields import Activation, Depth, LayerTypes, Off, Positive, Size, Switch, Token
from fft.models.language import next_token


@dataclass(frozen=True)
class Gemma2Config(DecoderConfig):
    """The fields of a Gemma 2 config.json that change the mathematics, under their own names and defaults.

    `hidden_act` and `sliding_window_size` repeat hidden_activation and sliding_window in published files.
    """

    vocab_size: Size = 256000
    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Depth = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size | None = 4
    head_dim: Size | None = 256
    hidden_activation: Activation = "gelu_pytorch_tanh"
    max_position_embeddings: Size = 8192
    tie_word_embeddings: Switch = True
    pad_token_id: Token | None = 0
    attention_bias: Switch = False
    query_pre_attn_scalar: Positive = 256
    sliding_window: Size | None = 4096
    sliding_window_size: Size | None = None
    layer_types: LayerTypes | None = None
    final_logit_softcapping: Positive | None = 30.0
    attn_logit_softcapping: Positive | None = 50.0
    use_bidirectional_attention: Off | None = None

    @property
    def activation(self) -> str:
        return self.hidden_activation

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.hidden_act not in (DecoderConfig.hidden_act, self.hidden_activation):  # the default: not in the file
            yield f"hidden_activation is {self.hidden_activation!r}, but hidden_act is {self.hidden_act!r}"
        if self.sliding_window_size not in (None, self.sliding_window):
            yield f"sliding_window is {self.sliding_window!r}, but sliding_window_size is {self.sliding_window_size!r}"

    def choices(self) -> Mapping[str, Any]:
        return {
            "qkv_bias": self.attention_bias,
            "out_bias": self.attention_bias,
            "norm_offset": 1.0,
            "norm_after": True,
            "embed_scale": self.hidden_size**0.5,
            "scales_virtual": False,
            "score_cap": self.attn_logit_softcapping,
            "logit_cap": self.final_logit_softcapping,
        }

    def scales(self) -> tuple[float, ...]:
        return (self.query_pre_attn_scalar**-0.5,) * self.num_hidden_layers

    def types(self) -> tuple[str, ...]:
        """Return the type of each layer: a local one, then a global one, and so on."""
        return self.layer_types or alternating(2, self.num_hidden_layers)

    def windows(self) -> tuple[int | None, ...]:
        return self.sliding(self.sliding_window, self.types())


BODY = (
    *ENDS,
    (f"{LAYER}.input_layernorm", "layers/{i}/attention_norm", "norm"),
    *ATTENTION,
    (f"{LAYER}.post_attention_layernorm", "layers/{i}/attention_norm_after", "norm"),
    (f"{LAYER}.pre_feedforward_layernorm", "layers/{i}/mlp_norm", "norm"),
    *MLP,
    (f"{LAYER}.post_feedforward_layernorm", "layers/{i}/mlp_norm_after", "norm"),
)

FAMILY = llama.FAMILY._replace(
    name="gemma2",
    architecture="Gemma2",
    config=Gemma2Config,
    language=next_token("Gemma2ForCausalLM"),
    body=BODY,
)
