"""Adapters that do not fit their base, on the command line: exit code 2, one message, and nothing is written."""

import json
import shutil

import jax
import numpy as np
import peft
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from fft import models
from fft.adapters import save_adapter
from fft.adapters.adapter import Adapter
from fft.methods import LoRA
from tests.helpers import peft_adapters as oracle
from tests.helpers.tiny_decoder import write_decoder
from tests.helpers.tiny_runs import fft, refused

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny causal language model with a tokenizer."""
    folder = tmp_path_factory.mktemp("bases") / "lm"
    write_decoder(folder, head=False)
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    """An adapter of peft's on it, which a test may spoil."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    oracle.adapted(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "a")
    return tmp_path / "a"


def configured(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewritten(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def exported(base, adapter, tmp_path):
    """The answer of `fft export`, which must leave no trace where it fails."""
    answer = fft("export", base, "--adapter", adapter, "--out", tmp_path / "out")
    left = {path.name for path in tmp_path.iterdir()} - {"a", "other"}
    assert left == ({"out"} if answer.code == 0 else set())
    return answer


def test_a_sound_adapter_is_merged(base, adapter, tmp_path):
    assert exported(base, adapter, tmp_path).code == 0
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stored["architectures"] == ["LlamaForCausalLM"]


SPOILT = {
    "a misspelt key": (
        lambda tensors: tensors.update({f"{QUERY}.lora_a.weight": tensors.pop(f"{QUERY}.lora_A.weight")}),
        f"has no place for: {QUERY}.lora_a.weight; and it lacks tensors that its adapter_config.json promises: "
        f"{QUERY}.lora_A.weight",
    ),
    "a missing key": (lambda tensors: tensors.pop(f"{QUERY}.lora_B.weight"), f"promises: {QUERY}.lora_B.weight"),
    "an extra key": (
        lambda tensors: tensors.update({f"{QUERY[:-6]}k_proj.lora_A.weight": np.zeros((2, 16), np.float32)}),
        "has no place for: base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
    ),
    "a shape": (
        lambda tensors: tensors.update({f"{QUERY}.lora_B.weight": np.zeros((5, 2), np.float32)}),
        "q_proj.lora_B.weight is [5, 2], expected [16, 2]",
    ),
    "not a number": (
        lambda tensors: tensors[f"{QUERY}.lora_B.weight"].fill(np.nan),
        "q_proj.lora_B.weight",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_tensors_that_do_not_fit_are_named(case, base, adapter, tmp_path):
    change, message = SPOILT[case]
    rewritten(adapter, change)
    refused(exported(base, adapter, tmp_path), message)


REFUSED = {
    "lora_bias": ({"lora_bias": True}, "lora_bias is set; fft does not support it"),
    "layer_replication": ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
    "target_parameters": ({"target_parameters": ["x"]}, "target_parameters is set"),
    "pissa": ({"init_lora_weights": "pissa"}, 'init_lora_weights is "pissa": it changes the base'),
    "unknown": ({"use_magic": 3}, "use_magic is 3: not known"),
    "rows outside": ({"trainable_token_indices": [5000]}, "trainable_token_indices hold 5000, but the base has"),
    "rows of a kernel": ({"trainable_token_indices": {"q_proj": [1]}}, "trainable_token_indices name 'q_proj'"),
    "rows of a tied head": ({"trainable_token_indices": {"lm_head": [1]}}, "trainable_token_indices name 'lm_head'"),
    "a rank of 0": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj: input should be greater than or equal to 1"),
    "a scale of NaN": ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern.q_proj"),
    "a prompt that is none": ({"peft_type": "PROMPT_TUNING"}, "lora_alpha is 8: not known"),
    "another type": ({"peft_type": "LOHA"}, "IA3, PROMPT_TUNING"),
    "what to do with another type": ({"peft_type": "LOHA"}, "merge_and_unload().save_pretrained(DIR)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed_is_refused_by_name(case, base, adapter, tmp_path):
    fields, message = REFUSED[case]
    configured(adapter, **fields)
    refused(exported(base, adapter, tmp_path), message)


def test_without_a_task_type_a_language_model_keeps_its_head(adapter, tmp_path):
    """PEFT does not ask for a task_type; the head is not tied here, so that it could be lost."""
    untied = tmp_path / "other"
    write_decoder(untied, head=False, tie_word_embeddings=False)
    tensors = load_file(untied / "model.safetensors")
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["model.embed_tokens.weight"][::-1])
    save_file(tensors, untied / "model.safetensors", metadata={"format": "pt"})
    configured(adapter, task_type=None, base_model_name_or_path=str(untied))
    assert "its language head" in exported(untied, adapter, tmp_path).out
    written = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(written["lm_head.weight"], tensors["lm_head.weight"])


def test_an_adapter_of_another_base_is_called_so_before_its_tensors_are(base, adapter, tmp_path):
    write_decoder(tmp_path / "other", head=False, num_hidden_layers=1)
    names = {f"model.layers.{block}." for block in range(1, 9)}
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    left = {name: value for name, value in tensors.items() if not name.startswith(tuple(names))}
    left["model.embed_tokens.weight"] = left["model.embed_tokens.weight"] + 1
    save_file(left, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    refused(exported(tmp_path / "other", adapter, tmp_path), "the adapter belongs to another base; give that one")


def test_the_folder_that_peft_names_is_compared_with_the_base(base, adapter, tmp_path):
    """Another base of the same shape is refused, the same one in another place or in bfloat16 is not."""
    write_decoder(tmp_path / "other", head=False, seed=1)
    refused(exported(tmp_path / "other", adapter, tmp_path), "which differs from")
    shutil.rmtree(tmp_path / "other")
    shutil.copytree(base, tmp_path / "other")
    assert exported(tmp_path / "other", adapter, tmp_path).code == 0
    shutil.rmtree(tmp_path / "out")
    halved = AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16")
    halved.save_pretrained(tmp_path / "other")
    assert exported(tmp_path / "other", adapter, tmp_path).code == 0
    shutil.rmtree(tmp_path / "out")
    write_decoder(tmp_path / "other", head=False, seed=1)
    configured(adapter, base_model_name_or_path="")
    assert exported(tmp_path / "other", adapter, tmp_path).code == 0


def test_tokens_that_were_added_for_the_adapter_must_be_in_the_tokenizer(base, adapter, tmp_path):
    own = json.loads((base / "tokenizer.json").read_text())
    (adapter / "tokenizer.json").write_text(json.dumps(own))
    assert exported(base, adapter, tmp_path).code == 0
    shutil.rmtree(tmp_path / "out")
    token = {"id": 40, "content": "<tool>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    own["added_tokens"] = [*own["added_tokens"], {**token, "normalized": False}]
    (adapter / "tokenizer.json").write_text(json.dumps(own))
    message = f"trained with tokens that the tokenizer of {base} lacks: '<tool>'; copy the tokenizer's files"
    refused(exported(base, adapter, tmp_path), message)


def test_rows_of_tokens_that_the_tokenizer_lacks_are_refused(tmp_path):
    """The base has a larger table than its tokenizer, as Qwen's, and the adapter trains a row of the rest."""
    folder = tmp_path / "other"
    write_decoder(folder, head=False)
    wide = AutoModelForCausalLM.from_pretrained(folder)
    known = wide.config.vocab_size
    wide.resize_token_embeddings(known + 8, mean_resizing=False)
    wide.save_pretrained(folder)
    for number, message in ((known - 1, ""), (known + 2, f"tokens that the tokenizer of {folder} lacks: {known + 2}")):
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], trainable_token_indices=[number]
        )
        oracle.adapted(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(tmp_path / "a")
        answer = exported(folder, tmp_path / "a", tmp_path)
        if message:
            refused(answer, message)
        else:
            assert answer.code == 0, answer.err
            shutil.rmtree(tmp_path / "out")


def test_a_merge_that_overflows_is_refused(base, adapter, tmp_path):
    def enlarge(tensors):
        tensors |= {name: np.full_like(value, 1e30) for name, value in tensors.items()}

    rewritten(adapter, enlarge)
    refused(exported(base, adapter, tmp_path), "query/kernel holds values that are not finite")


def test_an_adapter_of_ours_has_the_hash_of_its_base(base, tmp_path):
    checkpoint = models.load(base, language=True)
    theta = LoRA(rank=2).init(checkpoint.params, jax.random.key(0))
    save_adapter(Adapter(LoRA(rank=2), theta, {}, None), checkpoint, tmp_path / "a", "some/base")
    assert exported(base, tmp_path / "a", tmp_path).code == 0
    shutil.rmtree(tmp_path / "out")
    write_decoder(tmp_path / "other", head=False, seed=1)
    refused(exported(tmp_path / "other", tmp_path / "a", tmp_path), "made for a base with other weights (some/base)")
