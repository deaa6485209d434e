"""Adapters on decoders and ModernBERT, with a score or a language head: peft's in fft, and fft's in peft."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, ModernBertConfig

from fft import models
from fft.adapters import load_adapter, save_adapter
from fft.adapters.adapter import Adapter
from fft.core.tree import flatten, unflatten
from fft.methods import IA3, DoRA, LoRA, NormTuning, RsLoRA
from tests.helpers import peft_adapters as oracle
from tests.helpers import torch_decoders, torch_language

LORA = {"r": 3, "lora_alpha": 5}
MODERN = {**torch_language.MODERN, "num_labels": 3, "mlp_bias": True, "attention_bias": True, "norm_bias": True}


def torch_model(name):
    """A random torch model: `FAMILY` with a score head, `FAMILY lm` tied and `FAMILY lm untied` language models."""
    family, _, rest = name.partition(" lm")
    if " lm" in name:
        return torch_language.make(f"{family}{rest}")
    if family == "modernbert":
        model = AutoModelForSequenceClassification.from_config(ModernBertConfig(**MODERN), attn_implementation="eager")
        return torch_language.shaken(model)
    return torch_decoders.make(family, **torch_decoders.VARIANTS[family][0])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """base(name): the folder of a random base, written once."""
    folder = tmp_path_factory.mktemp("bases")

    def base(name):
        if not (folder / name / "config.json").exists():
            torch_model(name).save_pretrained(folder / name)
        return folder / name

    return base


def loaded(folder, name):
    """The torch model in a folder."""
    auto = AutoModelForCausalLM if " lm" in name else AutoModelForSequenceClassification
    return auto.from_pretrained(folder, attn_implementation="eager").eval()


def lora(**settings):
    return lambda task: peft.LoraConfig(task_type=task, **{**LORA, **settings})


PATTERNS = {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 5}, "alpha_pattern": {"q_proj": 7}}
ENDS = {"target_modules": ["q_proj", "embed_tokens"]}
CASES = {
    "suffixes": ("llama", lora(target_modules=["q_proj", "v_proj"])),
    "all-linear": ("llama", lora(target_modules="all-linear")),
    "rslora": ("llama", lora(target_modules=["q_proj", "down_proj"], use_rslora=True)),
    "dora": ("llama", lora(target_modules=["q_proj", "gate_proj"], use_dora=True)),
    "patterns": ("llama", lora(target_modules="all-linear", **PATTERNS)),
    "patterns, rslora": ("llama lm", lora(target_modules="all-linear", use_rslora=True, **PATTERNS)),
    "patterns, rslora, dora": ("llama", lora(target_modules="all-linear", use_rslora=True, use_dora=True, **PATTERNS)),
    "bias lora_only": ("llama", lora(target_modules=["q_proj", "up_proj"], bias="lora_only")),
    "bias all": ("llama lm", lora(target_modules=["q_proj"], bias="all")),
    "layers and exclusion": (
        "llama",
        lora(
            target_modules=r".*_proj",
            exclude_modules=["o_proj"],
        ),
    ),
    "one layer": ("llama lm", lora(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers")),
    "score saved": ("llama", lora(target_modules=["q_proj"], modules_to_save=["score"])),
    "lm_head saved, untied": ("llama lm untied", lora(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "lm_head saved, tied": ("llama lm", lora(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "embeddings saved, tied": ("llama lm", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "both ends saved": ("llama lm", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    "both ends saved and tied": (
        "llama lm",
        lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    ),
    "lora on embeddings": ("llama", lora(**ENDS)),
    "lora on tied embeddings": ("llama lm", lora(**ENDS)),
    "lora on untied embeddings": ("llama lm untied", lora(**ENDS)),
    "lora on embeddings, tied by request": ("llama lm", lora(**ENDS, ensure_weight_tying=True)),
    "dora on embeddings": ("llama lm", lora(**ENDS, use_dora=True)),
    "lora on lm_head": ("llama lm untied", lora(target_modules=["q_proj", "lm_head"])),
    "lora on tied lm_head": ("llama lm", lora(target_modules=["q_proj", "lm_head"])),
    "token rows": ("llama", lora(target_modules=["q_proj"], trainable_token_indices=[7, 9, 30])),
    "token rows, tied": ("llama lm", lora(target_modules=["q_proj"], trainable_token_indices=[7, 9, 30])),
    "token rows, tied, and lora on lm_head": (
        "llama lm",
        lora(target_modules=["q_proj", "lm_head"], trainable_token_indices=[7, 9, 30]),
    ),
    "token rows of both ends": (
        "llama lm untied",
        lora(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [7, 9], "lm_head": [8]}),
    ),
    "gemma3": ("gemma3_text", lora(target_modules="all-linear")),
    "gemma3 lm": ("gemma3_text lm", lora(target_modules="all-linear", use_dora=True)),
    "gpt2": ("gpt2", lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "gpt2, defaults": ("gpt2 lm", lora()),
    "gpt2, rslora": ("gpt2 lm", lora(target_modules="all-linear", use_rslora=True)),
    "gpt2, dora": ("gpt2 lm", lora(target_modules=["c_attn", "mlp.c_proj"], use_dora=True)),
    "gpt2, bias": ("gpt2", lora(target_modules=["c_attn"], bias="lora_only")),
    "gpt2, bias all": ("gpt2 lm", lora(target_modules=["c_attn", "c_fc"], bias="all")),
    "gpt2, embeddings": ("gpt2 lm", lora(target_modules=["c_attn", "wte", "wpe"])),
    "gpt2, saved whole": ("gpt2", lora(target_modules=["c_fc"], modules_to_save=["c_attn", "ln_f"])),
    "modernbert": ("modernbert", lora(target_modules=["Wqkv", "Wi"])),
    "modernbert, dora": ("modernbert", lora(target_modules="all-linear", use_dora=True)),
    "modernbert, bias": ("modernbert", lora(target_modules=["Wqkv", "Wo"], bias="all")),
    **{
        f"{name}": (name, lora(target_modules="all-linear"))
        for family in torch_decoders.FAMILIES
        for name in (family, f"{family} lm")
        if family not in ("llama", "gemma3_text", "gpt2")
    },
    "ia3": ("llama", lambda task: peft.IA3Config(task_type=task)),
    "ia3, gpt2": ("gpt2 lm", lambda task: peft.IA3Config(task_type=task)),
    "ia3, fused input": (
        "gpt2",
        lambda task: peft.IA3Config(task_type=task, target_modules=["c_attn"], feedforward_modules=["c_attn"]),
    ),
    "norms": ("gemma3_text lm", lambda task: peft.LNTuningConfig(task_type=task, target_modules=[r"norm"])),
    "norms, gpt2": ("gpt2", lambda task: peft.LNTuningConfig(task_type=task, target_modules=["ln_1", "ln_f"])),
}


@pytest.mark.parametrize("case", CASES)
def test_we_load_what_peft_writes_on_a_decoder_and_compute_the_same(case, bases, tmp_path):
    name, config_of = CASES[case]
    folder = bases(name)
    config = config_of("CAUSAL_LM" if " lm" in name else "SEQ_CLS")
    model = oracle.adapted(loaded(folder, name), config, biases="bias" in case)
    model.save_pretrained(tmp_path / "a")
    batch = oracle.rows(torch_decoders.PAD)
    expected = oracle.theirs(model, batch)
    base = models.load(folder, language=" lm" in name)
    merged = load_adapter(tmp_path / "a", base).on(base)
    found = oracle.ours(merged, batch)
    assert oracle.deviation(oracle.ours(base, batch), expected) > 0.001
    assert oracle.deviation(found, expected) <= 1e-5
    models.save(merged, tmp_path / "hf")
    again = loaded(tmp_path / "hf", name)
    assert oracle.deviation(oracle.theirs(again, batch), expected) <= 1e-5


OURS = {
    "lora": LoRA(rank=3, alpha=5.0),
    "all-linear": LoRA(rank=3, targets="all-linear"),
    "attention": RsLoRA(rank=3, alpha=2.0, targets="attention"),
    "mlp": DoRA(rank=2, targets="mlp"),
    "dora": DoRA(rank=3, targets="query,key,out,up"),
    "ia3": IA3(),
    "norm": NormTuning(),
}
MINE = [
    *((name, method) for name in ("llama", "gemma3_text lm", "gpt2", "gpt2 lm", "modernbert") for method in OURS),
    *((family, "all-linear") for family in torch_decoders.FAMILIES if family not in ("llama", "gpt2")),
    *((f"{family} lm", "dora") for family in torch_decoders.FAMILIES if family not in ("gemma3_text", "gpt2")),
    ("llama lm untied", "lora"),
]


def trained(base, method, seed=0):
    """The adapter of a run on this base, with random values in every leaf of its own."""
    rng = np.random.default_rng(seed)
    leaves = flatten(method.init(base.params, jax.random.key(seed)))
    norms = {p for p in leaves if p.removesuffix("bias").removesuffix("scale") + "scale" in leaves}
    own = norms if isinstance(method, NormTuning) else leaves
    moved = {p: x + jnp.asarray(rng.normal(0, 0.2, x.shape), x.dtype) if p in own else x for p, x in leaves.items()}
    return Adapter(method, unflatten(moved), base.heads, base.primary)


@pytest.mark.parametrize(("name", "method"), MINE)
def test_peft_loads_what_we_write_on_a_decoder_and_computes_the_same(name, method, bases, tmp_path):
    folder = bases(name)
    base = models.load(folder, language=" lm" in name)
    adapter = trained(base, OURS[method])
    save_adapter(adapter, base, tmp_path / "a", str(folder))
    batch = oracle.rows(torch_decoders.PAD)
    found = oracle.ours(adapter.on(base), batch)
    assert oracle.deviation(oracle.ours(base, batch), found) > 0.001
    model = oracle.with_peft(loaded(folder, name), tmp_path / "a")
    assert oracle.deviation(found, oracle.theirs(model, batch)) <= 1e-5
    back = load_adapter(tmp_path / "a", base).on(base)
    assert oracle.deviation(oracle.ours(back, batch), found) <= 1e-5


def test_untrained_parts_of_a_fused_layer_cost_no_rank(bases, tmp_path):
    """GPT-2's c_attn holds query, key and value: of two trained ones the rank is twice theirs, at the same scale."""
    base = models.load(bases("gpt2"))
    for targets, ranks in (("query,value", {"c_attn": 6}), ("query,value,out", {"c_attn": 6, "c_proj": 3})):
        save_adapter(trained(base, LoRA(rank=3, alpha=6.0, targets=targets)), base, tmp_path / "a", "b")
        config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
        found = {f"transformer.h.{i}.attn.{module}": rank for i in range(2) for module, rank in ranks.items()}
        written = {name: config["r"] for name in config["target_modules"]} | config.get("rank_pattern", {})
        assert written == found
        alphas = {name: config["lora_alpha"] for name in written} | config.get("alpha_pattern", {})
        assert {alphas[name] / rank for name, rank in written.items()} == {2.0}
        assert config["fan_in_fan_out"] and config["modules_to_save"] == ["score"]


def test_the_parts_that_share_a_matrix_are_written_with_it(bases, tmp_path):
    """An adapter of peft's on c_attn keeps its rank when it is written again."""
    model = oracle.adapted(loaded(bases("gpt2"), "gpt2"), peft.LoraConfig(task_type="SEQ_CLS", r=3))
    model.save_pretrained(tmp_path / "a")
    base = models.load(bases("gpt2"))
    read = load_adapter(tmp_path / "a", base)
    save_adapter(read, base, tmp_path / "b", "b")
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)
