"""Gemma 3, text (Gemma team, arXiv 2503.19786): norms of queries and keys, five local layers to a global one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fft.models.decoder_config import alternating
from fft.models.families import llama
from fft.models.families.gemma2 import BODY, Gemma2Config
from fft.models.fields import FULL, SLIDING, Positive, Size
from fft.models.language import next_token
from fft.models.rope import Rope
from fft.models.rope_fields import merged, nested_rope

LOCAL_THETA = 10_000.0


@dataclass(frozen=True)
class Gemma3Config(Gemma2Config):
    """The fields of a Gemma 3 config.json that change the mathematics, under their own names and defaults.

    Local and global layers have rope fields of their own: nested in rope_parameters, or in old files
    rope_local_base_freq for the local layers, rope_theta and rope_scaling for the global ones.
    """

    vocab_size: Size = 262_208
    max_position_embeddings: Size = 131_072
    final_logit_softcapping: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    sliding_window_pattern: Size = 6
    rope_local_base_freq: Positive | None = None

    default_theta: ClassVar[float] = 1_000_000.0

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.attn_logit_softcapping is not None:
            yield (
                f"attn_logit_softcapping is {self.attn_logit_softcapping!r}, which transformers ignores for Gemma 3: "
                "set it to null if the model was trained without"
            )

    def choices(self) -> Mapping[str, Any]:
        return {**super().choices(), "norm_heads": True}

    def types(self) -> tuple[str, ...]:
        return self.layer_types or alternating(self.sliding_window_pattern, self.num_hidden_layers)

    def rope_fields(self) -> dict[str, dict[str, Any]]:
        nested = nested_rope(self.rope_parameters)
        full = {"rope_parameters": nested[FULL], "rope_scaling": dict(self.rope_scaling or ())}
        own = {} if self.rope_theta is None else {"rope_theta": self.rope_theta}
        local = {} if self.rope_local_base_freq is None else {"rope_theta": self.rope_local_base_freq}
        return {
            FULL: merged({**full, "": own}),
            SLIDING: merged({"rope_parameters": nested[SLIDING], "rope_local_base_freq": local}),
        }

    def ropes(self) -> tuple[Rope | None, ...]:
        given = self.rope_fields()
        by_type = {
            FULL: self.rope_of(given[FULL], self.default_theta),
            SLIDING: self.rope_of(given[SLIDING], LOCAL_THETA),
        }
        return tuple(by_type[kind] for kind in self.types())


FAMILY = llama.FAMILY._replace(
    name="gemma3_text",
    architecture="Gemma3Text",
    config=Gemma3Config,
    language=next_token("Gemma3ForCausalLM"),
    body=BODY,
)
