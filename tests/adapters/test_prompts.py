"""Virtual tokens and prefixes on decoders and ModernBERT: peft's in fft, and fft's in peft."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fft import models
from fft.adapters import load_adapter, save_adapter
from fft.methods import PrefixTuning, PromptTuning
from tests.adapters.test_decoders import torch_model, trained
from tests.helpers import peft_adapters as oracle
from tests.helpers import torch_decoders

PROMPT = lambda task: peft.PromptTuningConfig(task_type=task, num_virtual_tokens=5)  # noqa: E731
PREFIX = lambda task: peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=5)  # noqa: E731
KINDS = {"prompt": PROMPT, "prefix": PREFIX}
CASES = {
    **{
        f"{name}, {kind}": (name, config)
        for name in (*(f"{family} lm" for family in torch_decoders.FAMILIES), "llama", "gemma2", "gpt2")
        for kind, config in KINDS.items()
    },
    "modernbert": ("modernbert", PROMPT),
    "a computed prompt": (
        "llama lm",
        lambda task: peft.PromptEncoderConfig(task_type=task, num_virtual_tokens=4, encoder_hidden_size=8),
    ),
    "a prompt of an LSTM": (
        "gpt2",
        lambda task: peft.PromptEncoderConfig(
            task_type=task, num_virtual_tokens=3, encoder_hidden_size=8, encoder_reparameterization_type="LSTM"
        ),
    ),
    "a projected prefix": (
        "llama",
        lambda task: peft.PrefixTuningConfig(
            task_type=task, num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=8
        ),
    ),
}


def rows(name, kind):
    """Rows for a model of this name.

    Where peft gives a sequence classifier virtual tokens, it reads the state of the last place, so these are unpadded.
    """
    lengths = (9, 9, 9) if kind != "prefix" and " lm" not in name else (9, 7, 4)
    return oracle.rows(torch_decoders.PAD, lengths=lengths)


def loaded(folder, name):
    """The torch model in a folder."""
    auto = AutoModelForCausalLM if " lm" in name else AutoModelForSequenceClassification
    return auto.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """base(name): the folder of a random base, written once."""
    folder = tmp_path_factory.mktemp("bases")

    def base(name):
        if not (folder / name / "config.json").exists():
            torch_model(name).save_pretrained(folder / name)
        return folder / name

    return base


@pytest.mark.parametrize("case", CASES)
def test_we_load_what_peft_writes_and_compute_the_same(case, bases, tmp_path):
    name, config_of = CASES[case]
    folder, config = bases(name), config_of("CAUSAL_LM" if " lm" in name else "SEQ_CLS")
    model = oracle.adapted(loaded(folder, name), config)
    model.save_pretrained(tmp_path / "a")
    batch = rows(name, "prefix" if "prefix" in case else "prompt")
    expected = oracle.theirs(model, batch)
    base = models.load(folder, language=" lm" in name)
    assert oracle.deviation(oracle.ours(base, batch), expected) > 0.001
    found = oracle.ours(load_adapter(tmp_path / "a", base).on(base), batch)
    assert oracle.deviation(found, expected) <= 1e-5


OURS = {"prompt": PromptTuning(tokens=4), "prefix": PrefixTuning(tokens=3)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("llama", "llama lm", "gemma3_text", "gpt2 lm") for kind in OURS]
    + [("modernbert", "prompt")],
)
def test_peft_loads_what_we_write_and_computes_the_same(name, kind, bases, tmp_path):
    base = models.load(bases(name), language=" lm" in name)
    adapter, batch = trained(base, OURS[kind]), rows(name, kind)
    save_adapter(adapter, base, tmp_path / "a", str(bases(name)))
    found = oracle.ours(adapter.on(base), batch)
    model = oracle.with_peft(loaded(bases(name), name), tmp_path / "a")
    assert oracle.deviation(found, oracle.theirs(model, batch)) <= 1e-5
    back = load_adapter(tmp_path / "a", base).on(base)
    np.testing.assert_array_equal(oracle.ours(back, batch), found)
    written = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    theirs = model.peft_config["default"].to_dict()
    for field in ("token_dim", "num_attention_heads", "num_layers", "num_virtual_tokens"):
        assert written[field] == theirs[field], field


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_torch(name, kind, bases, tmp_path):
    model = oracle.adapted(loaded(bases(name), name), KINDS[kind]("SEQ_CLS"))
    model.save_pretrained(tmp_path / "a")
    batch, values = rows(name, kind), model.prompt_encoder["default"].embedding.weight
    mask = torch.tensor(batch.mask).long()
    loss = model(input_ids=torch.tensor(batch.ids).long(), attention_mask=mask).logits.square().sum()
    (expected,) = torch.autograd.grad(loss, [values])
    base = models.load(bases(name))
    prompted = load_adapter(tmp_path / "a", base).on(base)

    def ours(prompt):
        pooled = base.model.states({**prompted.params, "prompt": prompt}, batch).pooled
        return jnp.sum(base.model.readout(prompted.params, "original", pooled) ** 2)

    (found,) = jax.jit(jax.grad(ours))(prompted.params["prompt"]).values()
    found, expected = np.asarray(found).reshape(expected.shape), expected.numpy()
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
