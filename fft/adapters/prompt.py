"""PEFT's PROMPT_TUNING and PREFIX_TUNING: one tensor, whatever the model, and the head beside it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from fft.adapters import config
from fft.adapters.layout import Format, Layout, Tensor
from fft.methods import PrefixTuning, PromptTuning

PREFIX = "base_model."
KEY = "prompt_embeddings"


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The fields of both."""

    num_virtual_tokens: int
    token_dim: int | None = None
    num_layers: int | None = None
    num_attention_heads: int | None = None
    num_transformer_submodules: Literal[1] | None = None


@dataclass(frozen=True, kw_only=True)
class PromptConfig(Config):
    """The fields of prompt tuning; how the tokens began no longer matters."""

    prompt_tuning_init: Any = None
    prompt_tuning_init_text: Any = None
    tokenizer_name_or_path: Any = None
    tokenizer_kwargs: Any = None


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(Config):
    """The fields of prefix tuning; of a projected prefix PEFT stores what the projection came to."""

    prefix_projection: bool = False
    encoder_hidden_size: Any = None
    init_weights: Any = None


def describe(method: PromptTuning | PrefixTuning, layout: Layout, paths: Iterable[str]) -> dict[str, Any]:
    """The fields of either."""
    return {
        "num_virtual_tokens": method.tokens,
        "token_dim": layout.dim,
        "num_layers": layout.depth,
        "num_attention_heads": layout.heads,
        "num_transformer_submodules": 1,
    }


def tokens(config: PromptConfig, layout: Layout) -> list[Tensor]:
    """The embeddings of the virtual tokens [P, D]."""
    shape = (config.num_virtual_tokens, layout.dim)
    return [Tensor(KEY, shape, "prompt/tokens", shape)]


def prefix(config: PrefixConfig, layout: Layout) -> list[Tensor]:
    """Keys and values of all blocks in one row a virtual token, [P, blocks · 2 · D]."""
    places, own = config.num_virtual_tokens, (layout.depth, 2, layout.dim)
    return [Tensor(KEY, (places, layout.depth * 2 * layout.dim), "prompt/prefix", (places, *own))]


def prompt_method(config: PromptConfig) -> dict[str, Any]:
    """The method of a config of prompt tuning."""
    return {"name": PromptTuning.name, "tokens": config.num_virtual_tokens}


def prefix_method(config: PrefixConfig) -> dict[str, Any]:
    """The method of a config of prefix tuning."""
    return {"name": PrefixTuning.name, "tokens": config.num_virtual_tokens}


PROMPT = Format((PromptTuning,), PromptConfig, PREFIX, describe, prompt_method, tokens)
# PEFT hands the prefix over as past keys and values, which transformers' DistilBERT does not take.
PREFIXES = Format((PrefixTuning,), PrefixConfig, PREFIX, describe, prefix_method, prefix, ("bert", "roberta"))
