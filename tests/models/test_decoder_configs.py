"""Config files of the generative families: published and old spellings are read, what is not computed is refused."""

import json
import re

import pytest
from transformers import CONFIG_MAPPING

from fft import models
from fft.core.errors import InputError
from fft.models.files.config import read_config
from fft.models.rope import Rope
from tests.helpers import torch_decoders as oracle
from tests.helpers.torch_decoders import FULL, SLIDING

SIZES = {name: value for name, value in oracle.SIZES.items() if name != "num_labels"}
LINEAR = {"rope_type": "linear", "factor": 2.0}


def shape(family, **fields):
    config, _ = read_config({"model_type": family, **SIZES, **fields}, models.FAMILIES[family], "config.json")
    return config.shape


def windows(family, **fields):
    return [layer.window for layer in shape(family, **fields).attention]


def test_old_spellings_of_rope_fields_mean_the_same():
    new = shape("llama", rope_parameters={**LINEAR, "rope_theta": 5e5})
    old = {"type": "linear", "factor": 2.0}
    assert new == shape("llama", rope_scaling=old, rope_theta=5e5)
    assert new == shape("llama", rope_scaling=LINEAR | old, rope_theta=500_000)
    assert new == shape("llama", rope_parameters=LINEAR, rope_theta=5e5)
    assert new.attention[0].rope == Rope(10, 64, "linear", 5e5, 2.0)
    nested = {FULL: {**LINEAR, "rope_theta": 1e6}, SLIDING: {"rope_type": "default", "rope_theta": 1e4}}
    new = shape("gemma3_text", rope_parameters=nested, sliding_window_pattern=2)
    old = {"rope_scaling": LINEAR, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    assert new == shape("gemma3_text", layer_types=[SLIDING, FULL], **old)
    assert [layer.rope.rope_theta for layer in new.attention] == [1e4, 1e6]


def test_rope_defaults_of_families():
    assert shape("llama").attention[0].rope.rope_theta == 1e4
    ropes = [layer.rope for layer in shape("smollm3", num_hidden_layers=4).attention]
    assert [rope and rope.rope_theta for rope in ropes] == [2e6, 2e6, 2e6, None]


def test_windows_of_layers():
    assert windows("mistral") == [4096, 4096]
    assert windows("mistral", sliding_window=None) == [None, None]
    on = {"use_sliding_window": True, "sliding_window": 3}
    assert windows("qwen2", **on, num_hidden_layers=4, max_window_layers=2) == [None, None, 3, 3]
    assert windows("qwen3", sliding_window=3, max_window_layers=0) == [None, None]
    assert windows("smollm3", **on, no_rope_layers=[0, 1]) == [3, None]
    assert windows("gemma2", num_hidden_layers=3) == [4096, None, 4096]
    assert windows("gemma3_text", num_hidden_layers=7) == [4096] * 5 + [None, 4096]


PUBLISHED = {
    "llama": {
        "is_llama_config": True,
        "rope_interleaved": False,
        "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}},
        "pretraining_tp": 1,
        "rope_scaling": None,
        "rope_theta": 100_000,
        "eos_token_id": [2, 3],
    },
    "granite": {
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "logits_scaling": 16.0,
        "residual_multiplier": 0.22,
        "rope_scaling": None,
        "rope_theta": 1e7,
    },
    "olmo2": {"rope_scaling": None, "rope_theta": 500_000, "attention_bias": False},
    "gemma2": {"hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 4096, "cache_implementation": "hybrid"},
    "gemma": {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"},
    "smollm3": {"pretraining_tp": 2, "rope_scaling": None, "rope_theta": 5e6, "max_window_layers": 28},
    "qwen2": {"use_mrope": False, "rope_theta": 1e6, "sliding_window": 131_072, "max_window_layers": 28},
    "gemma3_text": {"_sliding_window_pattern": 6, "rope_local_base_freq": 10_000, "rope_scaling": None},
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_fields_of_published_files_are_known(family):
    shape(family, **PUBLISHED[family])


@pytest.mark.parametrize("family", models.FAMILIES)
def test_absent_fields_have_the_defaults_of_transformers(family):
    """Saved files have all fields, so that no comparison of models sees a default."""
    files = ({"model_type": family}, CONFIG_MAPPING[family]().to_dict())
    (least, _), (complete, notes) = (read_config(raw, models.FAMILIES[family], "config.json") for raw in files)
    assert (least.shape, least.initializer_range) == (complete.shape, complete.initializer_range)
    assert not notes


def test_gpt2_as_published():
    fields = {"model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "task_specific_params": {"text-generation": {}}}
    config, notes = read_config(fields, models.FAMILIES["gpt2"], "config.json")
    assert config.shape.mlp == 3072
    assert not notes


LISTS = {"rope_type": "longrope", "short_factor": [1.0] * 5, "long_factor": [2.0] * 5}
LLAMA3 = {**oracle.LLAMA3, "original_max_position_embeddings": 16}
REFUSED = [
    ("llama", {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta is 500000.0, but rope_theta is"),
    (
        "llama",
        {"rope_scaling": LINEAR, "rope_parameters": {"factor": 4.0}},
        "factor is 4.0, but rope_scaling.factor is",
    ),
    ("llama", {"rope_scaling": {**LINEAR, "type": "yarn"}}, "rope_type is 'linear', but rope_scaling.type is 'yarn'"),
    ("llama", {"rope_scaling": {"rope_type": "su", "factor": 2.0}}, "rope_type 'su' is not supported.*longrope"),
    ("llama", {"rope_parameters": {**LINEAR, "beta_fast": 3}}, "'linear' does not read beta_fast"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "does not read partial_rotary_factor"),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, "'linear' needs factor"),
    ("llama", {"rope_parameters": {**LINEAR, "factor": -1}}, "factor must be a positive number, but is -1"),
    ("llama", {"rope_parameters": [1]}, "rope_parameters must be an object"),
    ("llama", {"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor must exceed"),
    ("llama", {"rope_parameters": {**oracle.YARN, "truncate": 1}}, "truncate must be true or false"),
    ("llama", {"rope_parameters": {**LISTS, "long_factor": [2.0] * 4}}, "long_factor must be a list of 5 positive"),
    ("llama", {"rope_parameters": {**LISTS, "short_factor": None}}, "'longrope' needs short_factor"),
    ("llama", {"hidden_size": 32, "num_attention_heads": 16, "num_key_value_heads": 5}, "16 attention heads.*of 5 key"),
    ("llama", {"head_dim": None, "num_attention_heads": 5, "num_key_value_heads": 5}, "24 is not a multiple of its 5"),
    ("llama", {"head_dim": 9}, "head width 9 is odd"),
    ("llama", {"attention_multiplier": 0.5}, "attention_multiplier are not known for model_type 'llama'"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("granite", {"logits_scaling": 0}, "logits_scaling must be a positive number, but is 0"),
    ("olmo2", {"attention_bias": 1}, "attention_bias must be true or false, but is 1"),
    ("olmo2", {"mlp_bias": True}, "mlp_bias are not known for model_type 'olmo2'"),
    ("mistral", {"sliding_window": 0}, "sliding_window must be a positive integer"),
    ("qwen2", {"layer_types": [FULL]}, "layer_types must be one of full_attention and sliding_attention for each"),
    ("qwen3", {"layer_types": [FULL, "chunked_attention"]}, "layer_types must be one of"),
    ("qwen2", {"layer_types": [FULL, SLIDING]}, "layer_types has sliding_attention, but there is no window"),
    ("smollm3", {"sliding_window": 3, "layer_types": [FULL, SLIDING]}, "there is no window.*use_sliding_window"),
    ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers must be 0 or 1 for each layer"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention must be false or null"),
    ("gemma", {"hidden_act": "gelu", "hidden_activation": "relu"}, "hidden_act is 'gelu', but hidden_activation is"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention must be false or null"),
    ("gemma2", {"hidden_act": "relu"}, "hidden_activation is 'gelu_pytorch_tanh', but hidden_act is 'relu'"),
    ("gemma2", {"sliding_window_size": 8}, "sliding_window is 4096, but sliding_window_size is 8"),
    ("gemma2", {"sliding_window": None}, "there is no window"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention must be false or null"),
    ("gemma3_text", {"layer_types": [FULL] * 3}, "layer_types must be one of"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    (
        "gemma3_text",
        {"rope_parameters": {"rope_theta": 1e6}},
        "rope_parameters has rope_theta; expected full_attention",
    ),
    ("gemma3_text", {"rope_parameters": {FULL: 3}}, "rope_parameters.full_attention must be an object"),
    (
        "gemma3_text",
        {"rope_local_base_freq": 1e3, "rope_parameters": {SLIDING: {"rope_theta": 1e4}}},
        "rope_theta is 10000.0, but rope_local_base_freq.rope_theta is 1000.0",
    ),
]


@pytest.mark.parametrize(("family", "fields", "message"), REFUSED)
def test_what_is_not_computed_is_refused_by_name(family, fields, message):
    with pytest.raises(InputError, match=message):
        shape(family, **fields)


def test_gpt2_with_heads_that_do_not_divide_its_width():
    with pytest.raises(InputError, match="24 is not a multiple of its 5 heads"):
        read_config({"n_embd": 24, "n_head": 5}, models.FAMILIES["gpt2"], "config.json")


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ({"model_type": "lama"}, ["'lama' is not supported", "did you mean 'llama'?"]),
        ({"model_type": "qwen2_moe"}, ["'qwen2_moe'", "did you mean 'qwen2'?", "smollm3"]),
        (
            {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "vision_config": {}},
            ["'gemma3'", "(text_config, vision_config)", "language model of model_type 'gemma3_text'"],
        ),
        ({"model_type": "llava", "text_config": {}, "vision_config": {}}, ["'llava'", "(text_config, vision_config)"]),
    ],
)
def test_unknown_families_name_the_nearest(tmp_path, raw, parts):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=".*".join(map(re.escape, ["config.json", *parts]))):
        models.load(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    oracle.make("llama").save_pretrained(tmp_path, max_shard_size="8KB")
    missing = sorted(tmp_path.glob("model-*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(InputError, match=f"{missing.name}, which is not in"):
        models.load(tmp_path)
