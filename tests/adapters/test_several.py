"""Several adapters on one base: weighted sums of LoRAs against peft's, their heads, and what cannot be summed."""

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import fft as package
from fft import models
from fft.adapters import load_adapter, save_adapter
from fft.adapters.adapter import Adapter
from fft.adapters.several import Adapters, weighted_sum
from fft.core.errors import InputError
from fft.core.tree import flatten, overlay, unflatten
from fft.methods import IA3, DoRA, LoRA, RsLoRA
from tests.helpers import peft_adapters as oracle
from tests.helpers import torch_decoders, torch_language, torch_models

WEIGHTS = {"a": 0.7, "b": -0.4, "c": 1.5}
PROJECTIONS = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
LLAMA = {
    "a": peft.LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj"]),
    "b": peft.LoraConfig(r=5, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    "c": peft.LoraConfig(r=4, lora_alpha=4, target_modules=PROJECTIONS, rank_pattern={"q_proj": 3}),
}
CASES = {
    "llama": LLAMA,
    "llama lm": LLAMA,
    "llama lm, embeddings": {
        "a": peft.LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "embed_tokens"]),
        "b": peft.LoraConfig(r=3, lora_alpha=3, target_modules=["embed_tokens"]),
    },
    "gpt2": {
        "a": peft.LoraConfig(r=2, lora_alpha=5, target_modules=["c_attn"], fan_in_fan_out=True),
        "b": peft.LoraConfig(r=3, lora_alpha=5, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
    },
    "bert": {
        "a": peft.LoraConfig(r=2, lora_alpha=5, target_modules=["query", "value"]),
        "b": peft.LoraConfig(r=6, lora_alpha=3, use_rslora=True, target_modules=["dense", "query"]),
    },
}


def torch_model(case):
    """A random torch model of the case's family."""
    family, _, language = case.partition(",")[0].partition(" ")
    if family == "bert":
        return torch_models.make("bert")
    if language:
        return torch_language.make(f"{family} {language}".removesuffix(" lm"))
    return torch_decoders.make(family, **torch_decoders.VARIANTS[family][0])


def of_peft(case, folder):
    """Write a base and the case's adapters with peft; return its model with all of them."""
    torch_model(case).save_pretrained(folder / "base")
    auto = AutoModelForCausalLM if " lm" in case else AutoModelForSequenceClassification
    plain = auto.from_pretrained(folder / "base", attn_implementation="eager").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, *others = copy.deepcopy(CASES[case]).items()  # peft writes into them
        model = peft.get_peft_model(plain, first[1], adapter_name=first[0])
        for name, config in others:
            model.add_adapter(name, config)
    oracle.randomize(model)
    model.save_pretrained(folder, selected_adapters=list(CASES[case]))
    return model.eval()


def loaded(case, folder):
    """The base and its adapters, loaded by us."""
    base = models.load(folder / "base", language=" lm" in case)
    return Adapters(base, {name: load_adapter(folder / name, base) for name in CASES[case]})


@pytest.mark.parametrize("case", CASES)
def test_a_weighted_sum_is_that_of_peft(case, tmp_path):
    model, weights = of_peft(case, tmp_path), {name: WEIGHTS[name] for name in CASES[case]}
    model.add_weighted_adapter(list(weights), list(weights.values()), "sum", combination_type="cat")
    model.set_adapter("sum")
    batch = oracle.rows(torch_decoders.PAD)
    expected = oracle.theirs(model, batch)
    adapters = loaded(case, tmp_path)
    summed = adapters.weighted(weights)
    found = oracle.ours(summed.on(adapters.base), batch)
    assert oracle.deviation(oracle.ours(adapters.active("a"), batch), expected) > 0.001
    assert oracle.deviation(found, expected) <= 1e-5


def test_a_sum_is_written_for_peft_with_its_ranks(tmp_path):
    of_peft("llama lm", tmp_path)
    adapters = loaded("llama lm", tmp_path)
    summed = adapters.weighted(WEIGHTS)
    save_adapter(summed, adapters.base, tmp_path / "sum", str(tmp_path / "base"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager").eval()
    batch = oracle.rows(torch_decoders.PAD)
    expected = oracle.theirs(oracle.with_peft(plain, tmp_path / "sum"), batch)
    assert oracle.deviation(oracle.ours(summed.on(adapters.base), batch), expected) <= 1e-5


def test_one_adapter_with_a_weight_is_that_of_peft(tmp_path):
    """Of several, `linear` is no sum of updates: it sums A and B apart."""
    model = of_peft("llama", tmp_path)
    model.add_weighted_adapter(["a"], [0.3], "sum", combination_type="linear")
    model.set_adapter("sum")
    batch, adapters = oracle.rows(torch_decoders.PAD), loaded("llama", tmp_path)
    found = oracle.ours(adapters.weighted({"a": 0.3}).on(adapters.base), batch)
    assert oracle.deviation(found, oracle.theirs(model, batch)) <= 1e-5


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random Llama with a score head."""
    folder = tmp_path_factory.mktemp("base")
    torch_model("llama").save_pretrained(folder)
    return models.load(folder)


def trained(base, method, seed, head=None):
    """An adapter of random values, with random values in the head `head` of three classes."""
    rng = np.random.default_rng(seed)
    theta = flatten(method.init({**base.params, "heads": {}}, jax.random.key(seed)))
    theta = {path: leaf + jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype) for path, leaf in theta.items()}
    heads = {} if head is None else {head: models.Head("classification", ("cat", "dog", "bird"))}
    own = {"heads": {name: base.model.init_head(jax.random.key(seed), 3) for name in heads}}
    return Adapter(method, overlay(unflatten(theta), own), heads, head)


def test_kernels_are_changed_by_the_weighted_updates_and_nothing_else_is(base):
    methods = {"a": LoRA(rank=2, alpha=3.0), "b": RsLoRA(rank=4, alpha=5.0, targets="all-linear")}
    adapters = {name: trained(base, method, seed) for seed, (name, method) in enumerate(methods.items())}
    found = flatten(weighted_sum(base, adapters, {"a": 2.0, "b": -0.5}).on(base).params)
    for path, leaf in flatten(base.params).items():
        expected, module = np.asarray(leaf, np.float64), path.removesuffix("/kernel")
        for name, scale in (("a", 2.0 * 3 / 2), ("b", -0.5 * 5 / 2)):
            theta = flatten(adapters[name].theta)
            if f"{module}/lora_a" in theta:
                a, b = (np.asarray(theta[f"{module}/lora_{which}"], np.float64) for which in "ab")
                expected = expected + scale * (a @ b)
        np.testing.assert_allclose(found[path], expected, rtol=0, atol=1e-5, err_msg=path)
    assert found.keys() == flatten(base.params).keys()


def test_the_base_keeps_its_arrays(base):
    adapters = Adapters(base, {"a": trained(base, LoRA(rank=2), 0), "b": trained(base, LoRA(rank=3), 1)})
    before = {path: (leaf, np.asarray(leaf).tobytes()) for path, leaf in flatten(base.params).items()}
    adapters.weighted({"a": 0.5, "b": 0.5}).on(base)
    adapters.active("a")
    for path, leaf in flatten(adapters.active().params).items():
        assert leaf is before[path][0] and np.asarray(leaf).tobytes() == before[path][1]


def test_the_heads_of_all_are_there_and_those_of_one_name_are_told_apart(base):
    adapters = {name: trained(base, LoRA(rank=2), seed, "new") for seed, name in enumerate("abc")}
    adapters["c"] = adapters["c"]._replace(theta=overlay(adapters["c"].theta, {"heads": adapters["b"].theta["heads"]}))
    adapters["a"], adapters["b"] = adapters["a"]._replace(max_length=7), adapters["b"]._replace(max_length=9)
    summed = package.weighted_sum(base, adapters, {"a": 1, "b": 1, "c": 1})
    assert list(summed.heads) == ["new", "new_2", "new_3"] and (summed.primary, summed.max_length) == ("new", 9)
    assert summed.notes[0] == "the head new of the adapter b is called new_2 here"
    params = summed.on(base).params["heads"]
    for name, head in (("a", "new"), ("b", "new_2"), ("c", "new_3")):
        own = adapters[name].theta["heads"]["new"]
        np.testing.assert_array_equal(params[head]["out"]["kernel"], own["out"]["kernel"])
    assert set(params) == {"original", *summed.heads}
    again = weighted_sum(base, {"a": adapters["a"], "d": adapters["a"]}, {"a": 1, "d": 1})
    assert list(again.heads) == ["new"], "the same head twice is one"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda base: {"b": trained(base, DoRA(rank=2), 1)}, "adapter b is one of dora, whose updates do not add up"),
        (lambda base: {"b": trained(base, IA3(), 1)}, "adapter b is one of ia3"),
        (
            lambda base: {"b": trained(base, LoRA(), 1)._replace(theta={"final_norm": {"scale": np.ones(24)}})},
            "adapter b holds final_norm/scale in full",
        ),
        (
            lambda base: {
                name: trained(base, LoRA(rank=2), 1)._replace(
                    theta={"embed": {"word": {"lora_a": np.ones((61, 1)), "lora_b": np.ones((1, 24))}}}, unties=unties
                )
                for name, unties in (("a", True), ("b", False))
            },
            "the adapter b changes word embeddings and language head together, .* and a one of them alone",
        ),
    ],
)
def test_what_does_not_add_up_is_refused(change, message, base):
    adapters = {"a": trained(base, LoRA(rank=2), 0), **change(base)}
    with pytest.raises(InputError, match=message):
        weighted_sum(base, adapters, {"a": 1, "b": 1})


def test_names_and_weights_are_checked(base):
    adapters = Adapters(base, {"a": trained(base, LoRA(rank=2), 0)})
    for weights, message in (
        ({}, "there are no adapters to sum"),
        ({"b": 1.0}, "there is no adapter 'b'; loaded are: a"),
        ({"a": float("nan")}, "the weight of the adapter a is nan: give a finite number"),
    ):
        with pytest.raises(InputError, match=message):
            adapters.weighted(weights)
