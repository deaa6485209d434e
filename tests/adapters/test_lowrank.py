"""A tuned checkpoint less its base as a LoRA adapter: exact at full rank, the best one below, and read by peft."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fft import models
from fft.adapters.lowrank import extracted
from fft.core.tree import flatten, map_leaves
from tests.helpers import peft_adapters as oracle
from tests.helpers import torch_decoders, torch_language
from tests.helpers.tiny_runs import fft, refused

CASES = ("llama", "llama lm", "llama lm untied", "gpt2", "gpt2 lm", "gemma3_text lm", "qwen2 lm", "modernbert", "bert")


def torch_model(name):
    """A random torch model, a language model for `FAMILY lm`."""
    family, _, rest = name.partition(" lm")
    if " lm" in name:
        return torch_language.make(f"{family}{rest}")
    if family in ("modernbert", "bert"):
        sizes = {"modernbert": torch_language.MODERN, "bert": torch_language.BERT}[family]
        config = torch_decoders.CONFIG_MAPPING[family](**sizes, num_labels=3)
        return torch_language.shaken(
            AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
        )
    return torch_decoders.make(family, **torch_decoders.VARIANTS[family][0])


def moved(checkpoint, pattern, seed=1):
    """The checkpoint with noise on the parameters that hold `pattern` in their path."""
    rng = np.random.default_rng(seed)

    def change(path, leaf):
        return leaf + jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32) if pattern in path else leaf

    return checkpoint._replace(params=map_leaves(change, checkpoint.params))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """pair(name, pattern): the folders of a base and of it with noise on some parameters."""
    folder = tmp_path_factory.mktemp("pairs")

    def pair(name, pattern=""):
        base = folder / name
        if not base.exists():
            torch_model(name).save_pretrained(base)
        tuned = folder / f"{name} {pattern.replace('/', '')} tuned"
        if not tuned.exists():
            models.save(moved(models.load(base, language=" lm" in name), pattern), tuned)
        return base, tuned

    return pair


def loaded(folder, name):
    auto = AutoModelForCausalLM if " lm" in name else AutoModelForSequenceClassification
    return auto.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", CASES)
def test_at_full_rank_peft_computes_the_tuned_model_from_its_base(name, pairs, tmp_path):
    """Every parameter differs: kernels become matrices, norms, embeddings and the head are saved, biases trained."""
    base, tuned = pairs(name)
    flags = ("--base", base, "--to", "lora", "--rank", 100, "--out", tmp_path / "a", "--json")
    answer = fft("export", tuned, *flags)
    assert answer.code == 0, answer.err
    batch = oracle.rows(torch_decoders.PAD)
    expected = oracle.theirs(loaded(tuned, name), batch)
    found = oracle.theirs(oracle.with_peft(loaded(base, name), tmp_path / "a"), batch)
    assert oracle.deviation(found, expected) <= 1e-5
    assert answer.json["share"] == pytest.approx(1) and answer.json["difference"]["flipped"] == 0
    assert answer.json["difference"]["largest"] <= 1e-5 * max(1, answer.json["difference"]["scale"])


def test_the_adapter_is_the_best_of_its_rank_and_the_error_is_measured(pairs, tmp_path):
    base, tuned = pairs("gpt2 lm", "/kernel")
    answer = fft("export", tuned, "--base", base, "--to", "lora", "--rank", 2, "--out", tmp_path / "a", "--json")
    assert answer.code == 0 and answer.json["whole"] == []
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    squares, kept = 0.0, 0.0
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            change = (after[name] - before[name]).T  # GPT-2 stores [in, out], peft [out, in]
            update = tensors[key.replace("lora_A", "lora_B")] @ a
            sigma = np.linalg.svd(change, compute_uv=False)
            assert a.shape[0] == 2, "a fused kernel has one adapter of the rank"
            assert np.linalg.norm(change - update) == pytest.approx(np.linalg.norm(sigma[2:]), rel=1e-4)
            assert np.linalg.norm(change - update, 2) == pytest.approx(sigma[2], rel=1e-4)
            squares, kept = squares + np.sum(sigma**2), kept + np.sum(sigma[:2] ** 2)
    assert answer.json["share"] == pytest.approx(kept / squares, rel=1e-5) and 0.1 < kept / squares < 0.9
    whole = models.load(tuned, language=True)
    model = oracle.with_peft(loaded(base, "gpt2 lm"), tmp_path / "a")
    batch = oracle.rows(torch_decoders.PAD)
    apart = np.abs(oracle.theirs(model, batch) - oracle.ours(whole, batch)).max()
    assert 0.1 < apart < 10 * answer.json["difference"]["largest"]
    assert "rank 2 has " in answer.err and "top-1 flipped" in answer.err


def test_kernels_that_do_not_differ_are_no_targets(pairs, tmp_path):
    base, tuned = pairs("llama", "1/attention/query")
    assert fft("export", tuned, "--base", base, "--to", "lora", "--rank", 3, "--out", tmp_path / "a").code == 0
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.self_attn.q_proj"] and config["r"] == 3
    assert config["modules_to_save"] == ["score"] and config["bias"] == "all"


def test_a_run_is_a_tuned_checkpoint_too_and_wrong_bases_are_refused(pairs, tmp_path):
    base, tuned = pairs("llama", "1/attention/query")
    out = ("--to", "lora", "--out", tmp_path / "a")
    refused(fft("export", base, "--base", base, *out), "have equal kernels")
    refused(fft("export", tuned, "--base", pairs("gpt2")[0], *out), "is a llama model, and the base")
    wide = torch_decoders.make("llama", **torch_decoders.VARIANTS["llama"][0], intermediate_size=20)
    wide.save_pretrained(tmp_path / "wide")
    refused(fft("export", tuned, "--base", tmp_path / "wide", *out), "differ in the shapes of layers/0/mlp/down/kernel")
    wide = torch_decoders.make("llama", **torch_decoders.VARIANTS["llama"][0], vocab_size=70)
    wide.save_pretrained(tmp_path / "wide")
    refused(
        fft("export", tuned, "--base", tmp_path / "wide", *out), "tokens were added, which PEFT expects in the base"
    )
    assert not (tmp_path / "a").exists()


def test_the_matrices_multiply_to_the_change(pairs):
    base, tuned = (models.load(folder) for folder in pairs("llama", "/kernel"))
    found = extracted(tuned, base, 100)
    on, expected = flatten(found.adapter.on(found.base).params), flatten(tuned.params)
    for path, leaf in expected.items():
        np.testing.assert_allclose(on[path], leaf, atol=2e-6, err_msg=path)
    assert jax.tree.structure(found.base.params) == jax.tree.structure(tuned.params)
