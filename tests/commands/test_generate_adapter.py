"""`fft generate --adapter`: an adapter on a base, or several with weights, without an export, against peft's texts."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import fft as package
from fft.adapters.adapter import Adapter
from fft.core.tree import flatten, unflatten
from fft.data.tokenize import load_tokenizer
from fft.methods import LoRA, PrefixTuning, PromptTuning
from tests.helpers.tiny_chat import write_chat
from tests.helpers.tiny_runs import fft, refused

PROMPTS = ("the good cat", "bad", "")
SUMMED = {"a": LoRA(rank=2, alpha=4.0), "b": LoRA(rank=3, targets="all-linear")}
METHODS = {**SUMMED, "prompt": PromptTuning(tokens=3), "prefix": PrefixTuning(tokens=4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model m and its adapters a and b."""
    folder = tmp_path_factory.mktemp("adapters")
    write_chat(folder / "m")
    base = package.load(folder / "m", language=True)
    for seed, (name, method) in enumerate(METHODS.items()):
        package.save_adapter(trained(base, method, seed), base, folder / name, str(folder / "m"))
    return folder


def trained(base, method, seed):
    """An adapter of random values that change the texts."""
    rng = np.random.default_rng(seed)
    leaves = flatten(method.init(base.params, jax.random.key(seed)))
    spread = 2.0 if isinstance(method, PromptTuning | PrefixTuning) else 0.3
    theta = {path: leaf + jnp.asarray(rng.normal(0, spread, leaf.shape), leaf.dtype) for path, leaf in leaves.items()}
    return Adapter(method, unflatten(theta), {}, None)


def generated(folder, *flags):
    """The new ids of the command."""
    answer = fft("generate", folder / "m", "--prompt", *PROMPTS, "--max-new", 8, *flags, "--json")
    assert answer.code == 0, answer.err
    return answer.json["ids"]


def of_peft(folder, adapter):
    """The new ids of peft's model with an adapter, each the most probable one after a pass over all before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "m"), adapter).eval()
    tokenizer = load_tokenizer(folder / "m", model.config.vocab_size)
    texts = []
    for prompt in PROMPTS:
        ids, new = tokenizer.backend.encode(prompt).ids, []
        while len(new) < 8 and model.config.eos_token_id not in new:
            given = torch.tensor([[*ids, *new]])
            with torch.no_grad():
                logits = model(input_ids=given, attention_mask=torch.ones_like(given)).logits
            new.append(int(logits[0, -1].argmax()))
        texts.append(new)
    return texts


@pytest.mark.parametrize("name", METHODS)
def test_the_texts_of_a_base_with_an_adapter_are_those_of_peft(name, folder):
    plain, found = generated(folder), generated(folder, "--adapter", folder / name)
    assert found == of_peft(folder, folder / name) != plain
    assert package.generate(folder / "m", PROMPTS, adapter=folder / name, max_new=8).ids == found


def test_virtual_tokens_take_positions(folder):
    answer = fft("generate", folder / "m", "--prompt", "bad", "--max-new", 157, "--adapter", folder / "prompt")
    refused(answer, "more than the 157 positions of the model beside 3 virtual tokens: give --max-new 155 or less")


def test_the_texts_of_a_weighted_sum_are_those_of_peft(folder, tmp_path):
    base = package.load(folder / "m", language=True)
    adapters = package.Adapters(base, {name: package.load_adapter(folder / name, base) for name in SUMMED})
    summed = adapters.weighted({"a": 0.8, "b": -1.2})
    package.save_adapter(summed, base, tmp_path / "sum", str(folder / "m"))
    both = ("--adapter", folder / "a", folder / "b", "--adapter-weights")
    found = generated(folder, *both, 0.8, -1.2)
    assert found == of_peft(folder, tmp_path / "sum") != generated(folder, "--adapter", folder / "a")
    weighted = {"adapter": [folder / "a", folder / "b"], "adapter_weights": [0.8, -1.2]}
    assert package.generate(base, PROMPTS, **weighted, max_new=8).ids == found
    assert generated(folder, *both, 0, 0) == generated(folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--adapter", "a", "b"), "--adapter names 2 adapters, and --adapter-weights has 0 values: give one for each"),
        (("--adapter", "a", "b", "--adapter-weights", 1), "has 1 value: give one for each"),
        (("--adapter-weights", 1), "--adapter names 0 adapters"),
        (("--adapter", "a", "a", "--adapter-weights", 1, 2), "a is given twice with --adapter"),
        (("--adapter", "a", "--adapter-weights", "nan"), "--adapter-weights must be a number, not nan"),
        (("--adapter",), "--adapter has no value"),
        (("--adapter", "m"), "has no adapter_config.json; it is a model"),
    ],
)
def test_wrong_adapters_write_nothing(flags, message, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    refused(fft("generate", "m", "--prompt", "the", "--out", tmp_path / "o.jsonl", *flags), message)
    assert not list(tmp_path.iterdir())
