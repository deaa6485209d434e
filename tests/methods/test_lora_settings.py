"""LoRA's choice of kernels, ranks and scales, and of the form in which an update is applied."""

import jax
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fft import models
from fft.adapters import load_adapter, save_adapter
from fft.adapters.adapter import trained_adapter
from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import flatten, unflatten
from fft.methods import DoRA, LoRA, RsLoRA
from tests.helpers.tiny_chat import write_chat

OWN = {"ranks": ("layers/0/mlp/.*=3", "mlp=5"), "alphas": ("query=7", "layers/1/.*=2.5")}
IDS = np.random.default_rng(0).integers(4, 40, (2, 7)).astype(np.int32)
TEXT = Inputs(IDS, np.ones_like(IDS), np.zeros_like(IDS))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return models.load_causal(write_chat(tmp_path_factory.mktemp("lora") / "m"))


def trained(method, base):
    """A tree of the method with random numbers in B."""
    leaves = flatten(method.parts().tree.init(base.params, jax.random.key(0)))
    rng = np.random.default_rng(1)
    noise = {path: 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    return unflatten({path: noise[path] if path.endswith("lora_b") else leaf for path, leaf in leaves.items()})


def logits(base, params):
    outputs = outputs_of(base.model, params, TEXT, read=("tokens",))
    return np.asarray(outputs.read("unembed", outputs.tokens))


@pytest.mark.parametrize("kind", [LoRA, RsLoRA, DoRA], ids=lambda kind: kind.name)
def test_all_forms_compute_the_same(base, kind):
    found = []
    for form in ({"factored": True}, {"merged": True}, {}):
        method = kind(rank=2, targets="all-linear", **OWN, **form)
        theta = trained(method, base)
        tree = method.parts().tree
        found.append(logits(base, tree.inject(base.params, theta, jax.random.key(0))))
        assert np.abs(found[-1] - logits(base, tree.merge(base.params, theta))).max() < 1e-5
    assert np.abs(found[0] - found[1]).max() < 1e-5 and np.abs(found[0] - found[2]).max() < 1e-5
    assert np.abs(found[0] - logits(base, base.params)).max() > 0.05


@pytest.mark.parametrize("kind", [LoRA, RsLoRA, DoRA], ids=lambda kind: kind.name)
def test_peft_computes_it_from_our_files_and_so_do_we(base, kind, tmp_path):
    method = kind(rank=2, targets="all-linear", layers="0-1", **OWN)
    theta = trained(method, base)
    adapter = trained_adapter(method, base, theta)
    save_adapter(adapter, base, tmp_path / "a", "base")
    expected = logits(base, method.parts().tree.merge(base.params, theta))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), tmp_path / "a")
    with torch.no_grad():
        found = theirs(torch.tensor(IDS).long()).logits.numpy()
    assert np.abs(found - expected).max() < 2e-5
    read = load_adapter(tmp_path / "a", base).on(base)
    assert np.abs(logits(base, read.params) - expected).max() < 2e-5


def test_ranks_scales_and_layers_are_those_asked_for(base):
    method = LoRA(rank=2, targets="attention,mlp", layers="1", **OWN)
    leaves = flatten(method.parts().tree.init(base.params, jax.random.key(0)))
    ranks = {path.rpartition("/")[0]: leaf.shape[1] for path, leaf in leaves.items() if path.endswith("lora_a")}
    assert {module.split("/")[1] for module in ranks} == {"1"}
    assert ranks["layers/1/mlp/up"] == 5 and ranks["layers/1/attention/query"] == 2
    assert method.scale_of("layers/1/attention/query") == 7 / 2 and method.scale_of("layers/1/mlp/up") == 2.5 / 5
    assert LoRA(rank=2, **OWN).rank_of("layers/0/mlp/up") == 3
    assert RsLoRA(rank=4, alphas=("mlp=6",)).scale_of("layers/0/mlp/up") == 3


def test_the_form_is_chosen_by_operations():
    assert LoRA(rank=8).beside(384, 8, 384) and not LoRA(rank=64).beside(384, 64, 384)
    assert LoRA(rank=64, dropout=0.1).beside(384, 64, 384) and not LoRA(merged=True).beside(384, 8, 384)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factored": True, "merged": True}, "exclude each other"),
        ({"layers": "0-9"}, "block 2 has no layer"),
        ({"layers": "first"}, "expected numbers of blocks"),
        ({"ranks": ("mlp",)}, "expected TARGETS=NUMBER"),
        ({"ranks": ("mlp=0",)}, "above 0"),
        ({"ranks": ("value=2.5",)}, "give a whole number"),
        ({"ranks": ("value=4000",)}, "a rank of at most"),
        ({"ranks": ("mlp=4",)}, "no layer with an update fits 'mlp'"),
        ({"alphas": ("values=4",)}, "unknown role values"),
    ],
)
def test_wrong_settings_are_refused(base, settings, message):
    with pytest.raises(InputError, match=message):
        method = LoRA(**settings)
        method.parts().check(type("C", (), {"base": base.params})())
        method.parts().tree.init(base.params, jax.random.key(0))
