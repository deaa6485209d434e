"""PEFT's PROMPT_TUNING, P_TUNING and PREFIX_TUNING: a single tensor for any model, and the head.

PEFT stores what the networks of P_TUNING and of a projected prefix compute, so that they are read as plain ones.
"""

from dataclasses import dataclass
from typing import Any, Literal

from fft.adapters import config
from fft.adapters.layout import Format, Layout, Leaves, Tensor, Written, whole
from fft.methods import PrefixTuning, PromptTuning

PREFIX = "base_model."
KEY = "prompt_embeddings"


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    """The fields that prompt tuning and prefix tuning share."""

    num_virtual_tokens: int
    token_dim: int | None = None
    num_layers: int | None = None
    num_attention_heads: int | None = None
    num_transformer_submodules: Literal[1] | None = None


@dataclass(frozen=True, kw_only=True)
class PromptConfig(Config):
    """The fields of prompt tuning; those on the initial tokens no longer matter."""

    prompt_tuning_init: Any = None
    prompt_tuning_init_text: Any = None
    tokenizer_name_or_path: Any = None
    tokenizer_kwargs: Any = None


@dataclass(frozen=True, kw_only=True)
class EncodedConfig(Config):
    """The fields of P_TUNING; those on the network that computed the tokens no longer matter."""

    encoder_reparameterization_type: Any = None
    encoder_hidden_size: Any = None
    encoder_num_layers: Any = None
    encoder_dropout: Any = None


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(Config):
    """The fields of prefix tuning."""

    prefix_projection: bool = False
    encoder_hidden_size: Any = None
    init_weights: Any = None


def written(method: PromptTuning | PrefixTuning, layout: Layout, base: Leaves, theta: Leaves) -> Written:
    """Return the config fields and the tensor of prompt tuning or prefix tuning.

    As PEFT writes them, the width and the number of heads are those of the keys for a prefix.
    """
    is_prefix = isinstance(method, PrefixTuning)
    fields = {
        "num_virtual_tokens": method.tokens,
        "token_dim": layout.kv_dim if is_prefix else layout.dim,
        "num_layers": layout.depth,
        "num_attention_heads": layout.kv_heads if is_prefix else layout.heads,
        "num_transformer_submodules": 1,
    }
    path = next(path for path in theta if path.startswith("prompt/"))
    return Written(fields, {KEY: theta[path].reshape(method.tokens, -1)}, frozenset({path}))


def tokens(config: PromptConfig | EncodedConfig, layout: Layout) -> list[Tensor]:
    """Return the embeddings of the virtual tokens, [P, D]."""
    shape = (config.num_virtual_tokens, layout.dim)
    return [whole(KEY, shape, "prompt/tokens", shape)]


def prefix(config: PrefixConfig, layout: Layout) -> list[Tensor]:
    """Return the keys and values of all blocks, one row for each virtual token, [P, blocks · 2 · width of the keys]."""
    places, own = config.num_virtual_tokens, (layout.depth, 2, layout.kv_dim)
    return [whole(KEY, (places, layout.depth * 2 * layout.kv_dim), "prompt/prefix", (places, *own))]


def prompt_method(config: PromptConfig | EncodedConfig) -> dict[str, Any]:
    """Return the method of a config of prompt tuning, as JSON data."""
    return {"name": PromptTuning.name, "tokens": config.num_virtual_tokens}


def prefix_method(config: PrefixConfig) -> dict[str, Any]:
    """Return the method of a config of prefix tuning, as JSON data."""
    return {"name": PrefixTuning.name, "tokens": config.num_virtual_tokens}


PROMPT = Format((PromptTuning,), PromptConfig, PREFIX, prompt_method, tokens, written)
ENCODED = Format((), EncodedConfig, PREFIX, prompt_method, tokens, written)
# PEFT passes the prefix as past keys and values, which transformers' DistilBERT and ModernBERT do not accept.
PREFIXES = Format((PrefixTuning,), PrefixConfig, PREFIX, prefix_method, prefix, written, ("distilbert", "modernbert"))
