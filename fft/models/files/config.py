"""Reading config.json with an allow-list: unknown fields raise an error that names them.

A field that changes the mathematics must be in a family's dataclass or in PINNED, with the only value that this
package computes; metadata without effect is listed in HARMLESS. As no other library reads the file, no field of a
downloaded config.json can make one import or run anything (CVE-2026-4372).
"""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from fft.core.errors import InputError
from fft.core.settings import says_nothing
from fft.disk.files import parsed_file
from fft.models.fields import wrong_values
from fft.models.layers import Config
from fft.models.model import Family

# fmt: off
HARMLESS = frozenset(
    {
        "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset",
        "attn_implementation", "architectures", "dtype", "torch_dtype",
        "transformers_version", "id2label", "label2id", "num_labels", "_num_labels", "problem_type",
        "finetuning_task", "use_cache", "output_attentions", "output_hidden_states", "output_past", "return_dict",
        "gradient_checkpointing", "torchscript", "use_bfloat16", "xla_device", "tf_legacy_loss",
        "chunk_size_feed_forward", "tie_encoder_decoder", "tie_last_hidden_states",
        "tie_weights_", "qa_dropout", "bos_token_id", "eos_token_id", "eos_token_ids", "sep_token_id", "cls_token_id",
        "mask_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "directionality",
        "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
        "tokenizer_class", "prefix", "task_specific_params", "language", "name", "model_max_length", "max_length",
        "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
        "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
        "return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
        "begin_suppress_tokens", "sentence_transformers", "sbert_ce_default_activation_function",
        "initializer_cutoff_factor", "deterministic_flash_attn", "reference_compile", "repad_logits_with_grad",
        "sparse_prediction", "sparse_pred_ignore_index",
        "pretraining_tp", "is_llama_config", "cache_implementation", "_sliding_window_pattern",
        "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
        "n_ctx", "max_window_layers", "transformers.js_config",
    }
)
# fmt: on

PINNED = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
    "position_embedding_type": ("absolute",),
    "pruned_heads": ({}, None),
    "per_layer_config": ({}, None),
    "sparsity_config": (None,),
    "quantization_config": (None,),
}
OLD_VOCABULARY = "vocab_size_or_config_json_file"  # written by transformers 2: vocab_size again, or -1


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises: InputError if the file is not JSON or holds no object."""
    try:
        value = parsed_file(path)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); get the file again from the source of the model") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, but holds a {type(value).__name__}")
    return value


def read_config(raw: dict[str, Any], family: Family, where: Path) -> tuple[Config, tuple[str, ...]]:
    """Return (the family's frozen config, notes) for the raw dict of a config.json.

    Absent fields get Hugging Face's defaults, as old transformers versions wrote only other values. Unknown fields that
    are null, false or empty are ignored, and a note names them.
    Raises: InputError naming every field that is unknown, has another value than the pinned one, or is out of range.
    """
    known = {field.name for field in fields(family.config)}
    config = family.config(**{name: hashable(raw[name]) for name in known if name in raw})
    unknown = sorted(set(raw) - known - set(PINNED) - HARMLESS - {"model_type", OLD_VOCABULARY})
    idle = [name for name in unknown if says_nothing(raw[name])]
    strange = [name for name in unknown if name not in idle]
    wrong = [*wrong_pins(raw, config), *wrong_values(config)]
    if strange:
        wrong.append(
            f"field(s) {', '.join(strange)} are not known for model_type {family.name!r}, and might change what the "
            "model computes; if they do not, delete them from config.json"
        )
    if wrong:
        raise InputError(f"{where}: {'; '.join(wrong)}")
    if problems := list(config.problems()):
        raise InputError(f"{where}: {'; '.join(problems)}")
    note = f"{where}: the unknown field(s) {', '.join(idle)} are null, false or empty, and are ignored"
    return config, (note,) * bool(idle)


def wrong_pins(raw: dict[str, Any], config: Config) -> Iterator[str]:
    """Yield a message for each field in PINNED with another value than this package computes."""
    for name, allowed in {**PINNED, OLD_VOCABULARY: (-1, config.vocab_size, None)}.items():
        if name in raw and raw[name] not in allowed:
            expected = " or ".join("null" if value is None else repr(value) for value in allowed)
            yield f"{name} is {raw[name]!r}; only {expected} is supported"


def hashable(value: Any) -> Any:
    """Return a JSON value with tuples in place of lists, and of objects as sorted (name, value) pairs."""
    if isinstance(value, dict):
        return tuple(sorted((name, hashable(entry)) for name, entry in value.items()))
    return tuple(map(hashable, value)) if isinstance(value, list) else value
