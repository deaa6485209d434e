"""LoRA and its kin against PEFT: the same base and the same adapter give the same logits and the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch

from fft import models
from fft.core.tree import flatten, unflatten
from fft.methods import IA3, DoRA, LoRA, PrefixTuning, PromptTuning, RsLoRA, StepContext
from fft.models.layers import Dense
from tests.helpers import torch_models as oracle

LAYER = {
    "bert": "bert.encoder.layer.{}",
    "roberta": "roberta.encoder.layer.{}",
    "distilbert": "distilbert.transformer.layer.{}",
}
SELF = {"query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value"}
BERT = {**SELF, "out": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
LINEAR = {"query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin"}
THEIRS = {
    "bert": BERT,
    "roberta": BERT,
    "distilbert": {**LINEAR, "out": "attention.out_lin", "up": "ffn.lin1", "down": "ffn.lin2"},
}
LEAVES = {
    "lora_A.default.weight": "lora_a",
    "lora_B.default.weight": "lora_b",
    "lora_magnitude_vector.default.weight": "lora_magnitude",
}
RANK, ALPHA = 4, 6


def adapter_of(torch_model, family, roles):
    """Return (our theta with the adapter's values from a PEFT model, {our path: its torch parameter})."""
    by_name = dict(torch_model.named_parameters())
    ours = {}
    for i in range(2):
        for role in roles:
            where = f"layers/{i}/{'mlp' if role in ('up', 'down') else 'attention'}/{role}"
            prefix = f"base_model.model.{LAYER[family].format(i)}.{THEIRS[family][role]}."
            ours |= {
                f"{where}/{leaf}": by_name[prefix + name] for name, leaf in LEAVES.items() if prefix + name in by_name
            }
            if prefix + "ia3_l.default" in by_name:
                side = "ia3_in" if role in ("out", "down") else "ia3_out"
                ours[f"{where}/{side}"] = by_name[prefix + "ia3_l.default"]
    return {path: jnp.asarray(as_ours(path, p.detach().numpy())) for path, p in ours.items()}, ours


def as_ours(path, array):
    """Convert a torch parameter or gradient to our layout: matrices transposed, IA3's vectors without the axis of 1."""
    return array.reshape(-1) if "ia3" in path else array.T


def with_peft(family, folder, config):
    """Write a base to a folder and return PEFT's model of it with an adapter of random values."""
    base = oracle.make(family)
    oracle.save(base, folder)
    torch_model = peft.get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in torch_model.named_parameters():
            if "lora" in name or "ia3" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return torch_model


def named(family, roles):
    return [THEIRS[family][role] for role in roles]


def lora_config(family, roles, **more):
    return peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=named(family, roles), **more)


CASES = {
    "lora": (LoRA(rank=RANK, alpha=ALPHA), ("query", "value"), {}),
    "lora factored": (LoRA(rank=RANK, alpha=ALPHA, factored=True), ("query", "value"), {}),
    "rslora": (RsLoRA(rank=RANK, alpha=ALPHA), ("key", "up"), {"use_rslora": True}),
    "dora": (DoRA(rank=RANK, alpha=ALPHA), ("query", "value", "up"), {"use_dora": True}),
    "dora factored": (DoRA(rank=RANK, alpha=ALPHA, factored=True), ("query", "value", "up"), {"use_dora": True}),
}


def check(method, torch_model, family, folder, roles):
    """Compare logits to 1e-5, and gradients of Σ logits² in the adapter to 1e-4 of their largest value."""
    checkpoint = models.load(folder)
    theta, parameters = adapter_of(torch_model, family, roles)
    assert len(theta) == len([name for name, _ in torch_model.named_parameters() if "lora" in name or "ia3" in name])
    batch = oracle.batch(family)
    theta_with_heads = unflatten(
        {**theta, **{p: x for p, x in flatten(checkpoint.params).items() if p.startswith("heads/")}}
    )

    def logits(theta):
        return checkpoint.model.apply(method.inject(StepContext(checkpoint.params), theta, jax.random.key(0)), batch)[
            "logits"
        ]["original"]

    slope = flatten(jax.grad(lambda theta: jnp.sum(logits(theta) ** 2))(theta_with_heads))
    outputs = torch_model(**oracle.inputs(family, batch)).logits
    oracle.close(logits(theta_with_heads), outputs.detach().numpy())
    oracle.close(
        checkpoint.model.apply(method.merge(checkpoint.params, theta_with_heads), batch)["logits"]["original"],
        outputs.detach().numpy(),
    )
    (outputs**2).sum().backward()
    largest = max(float(p.grad.abs().max()) for p in parameters.values())
    for path, parameter in parameters.items():
        expected = as_ours(path, parameter.grad.numpy())
        np.testing.assert_allclose(slope[path], expected, atol=1e-4 * largest, rtol=0, err_msg=path)


@pytest.mark.parametrize("case", CASES)
def test_lora_and_its_kin_compute_what_peft_computes(case, tmp_path):
    method, roles, settings = CASES[case]
    torch_model = with_peft("bert", tmp_path, lora_config("bert", roles, **settings))
    check(method, torch_model, "bert", tmp_path, roles)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_ia3_computes_what_peft_computes(family, tmp_path):
    """BERT's feed-forward name `output.dense` is also the attention's output: there too the vector scales the input."""
    roles = ("key", "value", "down") if family == "distilbert" else ("key", "value", "out", "down")
    readers = named(family, [role for role in roles if role in ("out", "down")])
    config = peft.IA3Config(target_modules=named(family, roles), feedforward_modules=readers)
    check(IA3(targets=",".join(roles)), with_peft(family, tmp_path, config), family, tmp_path, roles)


PROMPTS = {
    "prompt": (PromptTuning(tokens=3), peft.PromptTuningConfig, "tokens", (3, 48)),
    "prefix": (PrefixTuning(tokens=3), peft.PrefixTuningConfig, "prefix", (3, 2, 2, 48)),
}


@pytest.mark.parametrize(
    ("name", "family"),
    [("prompt", "bert"), ("prompt", "roberta"), ("prompt", "distilbert"), ("prefix", "bert"), ("prefix", "roberta")],
)
def test_prompts_and_prefixes_compute_what_peft_computes(name, family, tmp_path):
    """Logits of rows with and without padding to 1e-5, and the gradient of Σ logits² in the virtual tokens."""
    method, config, leaf, shape = PROMPTS[name]
    torch_model = oracle.make(family)
    oracle.save(torch_model, tmp_path)
    sizes = {"token_dim": 48, "num_layers": 2, "num_attention_heads": 3}
    torch_model = peft.get_peft_model(torch_model, config(task_type="SEQ_CLS", num_virtual_tokens=3, **sizes)).eval()
    (values,) = torch_model.prompt_encoder.parameters()
    with torch.no_grad():
        values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(5)))
    checkpoint, batch = models.load(tmp_path), oracle.batch(family)
    theta = unflatten({f"prompt/{leaf}": jnp.asarray(values.detach().numpy()).reshape(shape)})

    def logits(theta):
        return checkpoint.model.apply(method.inject(StepContext(checkpoint.params), theta, jax.random.key(0)), batch)[
            "logits"
        ]["original"]

    outputs = torch_model(**oracle.inputs(family, batch)).logits
    oracle.close(logits(theta), outputs.detach().numpy())
    (outputs**2).sum().backward()
    slope = jax.grad(lambda theta: jnp.sum(logits(theta) ** 2))(theta)["prompt"][leaf].reshape(values.shape)
    largest = float(values.grad.abs().max())
    np.testing.assert_allclose(slope, values.grad.numpy(), atol=1e-4 * largest, rtol=0)
    merged = method.merge(checkpoint.params, theta)
    states = checkpoint.model.states(merged, batch, read=("tokens",), layers=(2,))
    assert states.layers[2].shape[1] == batch.ids.shape[1] + (3 if name == "prompt" else 0)
    assert states.tokens.shape[1] == batch.ids.shape[1]


def test_dropout_of_the_factored_dora_is_pefts_in_the_mean(tmp_path):
    """PEFT drops what both terms of the side path read: its mean over masks is the output without dropout."""
    dropout = 0.4
    method = DoRA(rank=RANK, alpha=ALPHA, dropout=dropout, factored=True, targets="query")
    torch_model = with_peft("bert", tmp_path, lora_config("bert", ("query",), use_dora=True, lora_dropout=dropout))
    theta, _ = adapter_of(torch_model, "bert", ("query",))
    checkpoint = models.load(tmp_path)
    theta_with_heads = unflatten(theta)
    injected = flatten(method.inject(StepContext(checkpoint.params), theta_with_heads, jax.random.key(0)))
    module = "layers/0/attention/query"
    plain = flatten(method.merge(checkpoint.params, theta_with_heads))[f"{module}/kernel"]
    tree = {p.rpartition("/")[2]: leaf for p, leaf in injected.items() if p.startswith(f"{module}/")}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 48)), jnp.float32)
    seeds = jax.random.bits(jax.random.key(1), (3000, 2), jnp.uint32)
    drawn = jax.vmap(lambda seed: Dense(48).apply({"params": tree}, x, seed))(seeds)[:, 0, 0]
    expected = (x @ plain)[0, 0] + tree["bias"]
    error = drawn.std(0) / np.sqrt(len(seeds))
    assert float(drawn.std(0).min()) > 0
    assert float(jnp.max(jnp.abs(drawn.mean(0) - expected) / error)) < 5

    layer = torch_model.base_model.model.bert.encoder.layer[0].attention.self.query.train()
    with torch.no_grad():
        theirs = torch.stack([layer(torch.tensor(np.asarray(x)))[0, 0] for _ in range(3000)]).numpy()
    np.testing.assert_allclose(drawn.std(0), theirs.std(0), rtol=0.15)
