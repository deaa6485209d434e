"""OLMo 2 (Team OLMo, arXiv 2501.00656): norms behind attention and MLP only, and of whole queries and keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fft.models.decoder_config import ATTENTION, ENDS, LAYER, MLP, DecoderConfig
from fft.models.families import llama
from fft.models.fields import Size, Small, Switch, Token
from fft.models.language import next_token


@dataclass(frozen=True)
class Olmo2Config(DecoderConfig):
    """The fields of an OLMo 2 config.json that change the mathematics, under their own names and defaults."""

    vocab_size: Size = 50304
    rms_norm_eps: Small = 1e-5
    pad_token_id: Token | None = 1
    attention_bias: Switch = False

    def choices(self) -> Mapping[str, Any]:
        return {
            "qkv_bias": self.attention_bias,
            "out_bias": self.attention_bias,
            "norm_before": False,
            "norm_after": True,
            "norm_whole": True,
        }


BODY = (
    *ENDS,
    *ATTENTION,
    (f"{LAYER}.post_attention_layernorm", "layers/{i}/attention_norm_after", "norm"),
    *MLP,
    (f"{LAYER}.post_feedforward_layernorm", "layers/{i}/mlp_norm_after", "norm"),
)

FAMILY = llama.FAMILY._replace(
    name="olmo2",
    architecture="Olmo2",
    config=Olmo2Config,
    language=next_token("Olmo2ForCausalLM"),
    body=BODY,
)
