"""Distillation of layers: its term against torch transformers' hidden states, its gradient against models cut short."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from fft import models
from fft.core.batch import Batch, Outputs
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import flatten
from fft.methods import Context, Distill, Full, StepContext, chain
from fft.models import FAMILIES
from fft.models.model import build
from fft.tasks.classify import Classify
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers import torch_models as oracle
from tests.helpers.tiny_runs import fft, record, refused

STILL = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "distilbert": {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
}
TASK = Classify("original", ("LABEL_0", "LABEL_1"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """{family: (torch base, tuned torch model, our base, our tuned model)}, without dropout."""
    root, by_family = tmp_path_factory.mktemp("pairs"), {}
    for family, rates in STILL.items():
        two = [oracle.make(family, seed=seed, **rates) for seed in (0, 1)]
        folders = [oracle.save(model, root / f"{family}{at}") for at, model in enumerate(two)]
        by_family[family] = (*two, *(models.load(folder) for folder in folders))
    return by_family


def rows(family):
    texts = oracle.batch(family, rows=5, tokens=9)
    targets, weight = np.array([0, 1, 1, 0, 0], np.int32), np.array([1, 1, 1, 1, 0], np.float32)
    return Batch(*texts, targets, weight, np.arange(5, dtype=np.int32))


def torch_states(model, family, batch):
    """transformers' hidden states of every depth, float64 [B, T, D], and our pooled state in its terms."""
    with torch.no_grad():
        body = getattr(model, FAMILIES[family].prefix)
        outputs = body(**oracle.inputs(family, batch), output_hidden_states=True)
        states = [state.double().numpy() for state in outputs.hidden_states]
        pooled = outputs.pooler_output.double().numpy() if family == "bert" else states[-1][:, 0]
    return states, pooled


def by_loops(family, torch_base, torch_moved, batch, layers):
    """Return the mean over weighted rows of the mean over layers of ‖h − h*‖² / ‖h*‖², token by token."""
    (before, was), (after, now) = (torch_states(model, family, batch) for model in (torch_base, torch_moved))
    total, real = 0.0, [row for row in range(5) if batch.weight[row]]
    for row in real:
        terms = []
        for layer in layers:
            if layer == "pooled":
                terms.append(((now[row] - was[row]) ** 2).sum() / (was[row] ** 2).sum())
                continue
            tokens = [0] if layer == 2 else [t for t in range(9) if batch.mask[row, t]]
            moved = sum(((after[layer][row, t] - before[layer][row, t]) ** 2).sum() for t in tokens)
            terms.append(moved / sum((before[layer][row, t] ** 2).sum() for t in tokens))
        total += np.mean(terms)
    return total / len(real)


CASES = {"0": (0,), "1": (1,), "2": (2,), "pooled,1": ("pooled", 1), "all": ("pooled", 0, 1, 2)}


def stepped(method, base, moved, batch, on, lr=1.0):
    """Return (metrics, (parameters before − after) / rate) of an SGD step from `moved`."""
    tx = optax.sgd(lr)
    step = make_train_step(base.model, TASK, method, tx, dict.fromkeys(flatten(base.params), 1.0), TASK)
    state = init_state(jax.tree.map(jnp.copy, moved.params), tx, jax.random.key(0))
    pooled = base.model.apply(base.params, batch)["pooled"]
    new = jax.tree.map(lambda x: x[None], batch)
    state, metrics = step(state, base.params, {"pooled": pooled}, {"new": new} | ({} if on == "new" else {on: new}))
    return metrics, jax.tree.map(lambda a, b: (a - b) / lr, moved.params, state.theta)


@pytest.mark.parametrize(
    ("family", "layers"), [*(("bert", layers) for layers in CASES), ("roberta", "all"), ("distilbert", "all")]
)
def test_the_term_of_a_step_is_that_of_torchs_hidden_states(pairs, family, layers):
    torch_base, torch_moved, base, moved = pairs[family]
    batch = rows(family)
    metrics, _ = stepped(Distill(strength=0.7, layers=layers), base, moved, batch, "original")
    expected = 0.7 * by_loops(family, torch_base, torch_moved, batch, CASES[layers])
    assert float(metrics["penalty"]) == pytest.approx(expected, rel=1e-5)


def cut_short(checkpoint, params, batch, depth):
    """Return the hidden states after a number of blocks, from a model with only these blocks."""
    field = "n_layers" if checkpoint.model.family == "distilbert" else "num_hidden_layers"
    model = build(FAMILIES[checkpoint.model.family], dataclasses.replace(checkpoint.model.config, **{field: depth}))
    layers = {str(i): params["layers"][str(i)] for i in range(depth)}
    return model.states({"embed": params["embed"], "layers": layers}, batch, read=("tokens",)).tokens


def test_a_step_descends_the_gradient_of_the_term(pairs):
    _, _, base, moved = pairs["bert"]
    batch = rows("bert")

    def objective(params):
        logits = base.model.apply(params, batch)["logits"]["original"]
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        terms = []
        for depth in (0, 1):
            before, now = (cut_short(base, tree, batch, depth) for tree in (base.params, params))
            real = batch.mask[..., None]
            terms.append(jnp.sum(real * (now - before) ** 2, (1, 2)) / jnp.sum(real * before**2, (1, 2)))
        return jnp.sum(batch.weight * (nll + 0.7 * sum(terms) / 2)) / jnp.sum(batch.weight)

    _, went = stepped(Distill(strength=0.7, layers="0,1", on="new"), base, moved, batch, "new")
    slope = flatten(jax.grad(objective)(moved.params))
    for path, leaf in flatten(went).items():
        np.testing.assert_allclose(leaf, slope[path], atol=1e-4 * max(1, np.abs(slope[path]).max()), err_msg=path)


def test_hidden_states_are_torchs_and_the_base_has_no_dropout(pairs, tmp_path):
    torch_model = oracle.make("bert", seed=4)
    ours = models.load(oracle.save(torch_model, tmp_path / "noisy"))
    batch = rows("bert")
    result = jax.jit(lambda params: ours.model.states(params, batch, layers=(0, 1, 2)).layers)(ours.params)
    states, _ = torch_states(torch_model, "bert", batch)
    for depth in (0, 1):
        oracle.close(result[depth], states[depth])
    oracle.close(result[2], states[2][:, :1])
    still = stepped(Distill(layers="1"), ours, ours, batch, "original")[0]["penalty"]
    assert 0 < float(still) < 5, "dropout moves the model away from its base"
    base = pairs["bert"][2]
    assert float(stepped(Distill(layers="all"), base, base, batch, "original")[0]["penalty"]) < 1e-10


def test_virtual_tokens_are_left_out(pairs):
    """With a prompt in front, the states of the text's own tokens are compared."""
    base = pairs["bert"][2]
    batch = rows("bert")
    params = {**base.params, "prompt": {"tokens": jnp.ones((3, 48))}}
    outputs = outputs_of(base.model, params, batch, layers=(1,))
    before = base.model.states(base.params, batch, layers=(1,))
    result = Distill(layers="1").losses(
        StepContext(base.params), "original", outputs._replace(base=Outputs(before, outputs.read)), batch, None
    )[0]
    now, was = np.asarray(outputs.states.layers[1])[:, 3:], np.asarray(before.layers[1])
    expected = [
        ((now[row] - was[row])[batch.mask[row] > 0] ** 2).sum() / (was[row][batch.mask[row] > 0] ** 2).sum()
        for row in range(5)
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-4)


@pytest.mark.parametrize("wrong", ["", "none", "1,", "-1", "1;2", "all,1", "pooled 1"])
def test_invalid_layers_are_rejected(wrong):
    with pytest.raises(InputError, match=r"--distill\.layers .*expected pooled, all, or numbers such as 0,6,12"):
        Distill(layers=wrong)


def test_the_pooled_state_alone_needs_no_layers_and_a_chain_asks_for_all_streams(pairs):
    assert Distill().layer_streams == frozenset()
    assert chain(Full(), Distill(layers="0", on="new")).layer_streams == {"new"}
    base = pairs["bert"][2].params
    Distill(layers="0,2").check(Context(None, base))
    with pytest.raises(InputError, match=r"names 3: this model has 0, the embeddings, and blocks 1 to 2"):
        Distill(layers="0,3").check(Context(None, base))


@pytest.mark.parametrize("flags", [("--distill.layers", "all"), ("--distill.layers", "1", "--distill.on", "new")])
def test_a_run_keeps_its_layers_near_the_base(tiny, tmp_path, flags):
    short = ("--steps", 6, "--batch-size", 16, "--tolerance", 1, "--lr", 1e-3, "--keep", "latest")
    given = ("--model", tiny / "bert", "--new", tiny / "new.csv", "--original", tiny / "original.csv", *short)
    answer = fft("tune", *given, "--method", "lora+distill", *flags, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert record(tmp_path / "run")["steps"] == 6
    assert (tmp_path / "run" / "prepared" / "tensors.safetensors").exists()
    answer = fft("tune", *given, "--method", "distill", "--distill.layers", "3", "--out", tmp_path / "no")
    refused(answer, "--distill.layers names 3: this model has 0, the embeddings, and blocks 1 to 2")
    assert not (tmp_path / "no").exists()
