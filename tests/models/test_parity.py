"""Logits, gradients, padding, saving: every family against torch transformers on random small configs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from fft import models
from fft.core.batch import Inputs
from fft.core.tree import flatten
from fft.models.files.keys import rename
from tests.helpers import torch_models as oracle

FAMILIES = ("bert", "roberta", "distilbert")

SHALLOW = {"num_hidden_layers": 1}
VARIANTS = {
    "bert": (
        {},
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "num_labels": 5, "type_vocab_size": 3, **SHALLOW},
        {"hidden_act": "relu", "num_labels": 1, "num_attention_heads": 1, "pad_token_id": 3, **SHALLOW},
        {"hidden_act": "silu", "chunk_size_feed_forward": 3, "num_labels": 3, **SHALLOW},
    ),
    "roberta": (
        {"type_vocab_size": 1},
        {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-5, "num_labels": 3, "pad_token_id": 4, **SHALLOW},
        {"hidden_act": "tanh", "num_labels": 1, **SHALLOW},
    ),
    "distilbert": (
        {},
        {"activation": "relu", "num_labels": 4, "sinusoidal_pos_embds": True, **SHALLOW},
        {"activation": "gelu_new", "num_labels": 1, **SHALLOW},
    ),
}
CASES = [(family, overrides) for family in FAMILIES for overrides in VARIANTS[family]]


def case_batch(family, overrides):
    return oracle.batch(family, pad=overrides.get("pad_token_id"))


def targets(classes, rows):
    rng = np.random.default_rng(1)
    if classes == 1:
        return rng.normal(size=rows).astype(np.float32)
    return rng.integers(0, classes, rows).astype(np.int32)


def mean_loss(params, model, batch, label):
    logits = model.apply(params, batch)["logits"]["original"]
    if logits.shape[1] == 1:
        return jnp.mean((logits[:, 0] - label) ** 2), logits
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)), logits


@pytest.mark.parametrize(("family", "overrides"), CASES)
def test_logits_gradients_and_saving(family, overrides, tmp_path):
    theirs = oracle.make(family, **overrides)
    folder = oracle.save(theirs, tmp_path / "theirs")
    agree(theirs, models.load(folder), family, case_batch(family, overrides), tmp_path / "ours")


def agree(theirs, checkpoint, family, batch, folder):
    """Compare logits, the gradient of the mean loss by leaf, and the logits of torch on a checkpoint saved by fft."""
    expected = oracle.logits(theirs, family, batch)
    label = targets(expected.shape[1], len(expected))
    slope = jax.jit(jax.grad(mean_loss, has_aux=True), static_argnums=1)
    gradients, logits = slope(checkpoint.params, checkpoint.model, batch, label)
    oracle.close(logits, expected)
    compare_gradients(theirs, checkpoint, family, batch, label, flatten(gradients))

    saved = models.save(checkpoint, folder)
    back = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    np.testing.assert_array_equal(oracle.logits(back, family, batch), expected)


def compare_gradients(theirs, checkpoint, family, batch, label, ours):
    """Compare leaf by leaf, relative; a key bias has no gradient (softmax ignores it), only rounding errors."""
    torch_label = torch.tensor(label) if label.dtype == np.float32 else torch.tensor(label).long()
    theirs(**oracle.inputs(family, batch), labels=torch_label).loss.backward()
    named = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    paths = rename(named, models.FAMILIES[family], checkpoint.model.config, "original", "torch")
    assert set(paths.values()) == set(ours)
    for name, path in paths.items():
        expected = named[name].T if path.endswith("/kernel") else named[name]
        if path.endswith("attention/key/bias"):
            assert max(np.abs(ours[path]).max(), np.abs(expected).max()) < 1e-5
            continue
        error = np.linalg.norm(ours[path] - expected) / np.linalg.norm(expected)
        assert error < 1e-4, (path, error)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family, tmp_path):
    checkpoint = models.load(oracle.save(oracle.make(family), tmp_path))
    batch = oracle.batch(family, tokens=7, lengths=[7, 4, 2, 1])
    pad = checkpoint.model.config.pad_token_id
    fill = Inputs(ids=pad, mask=0, types=0)
    wider = jax.tree.map(lambda value, at: np.pad(value, ((0, 0), (0, 6)), constant_values=at), batch, fill)
    with jax.enable_x64(True):  # in float32 the order of the sums, which the width decides, moves the last digits
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), checkpoint.params)
        apply = jax.jit(checkpoint.model.apply)
        short, padded = (apply(params, each)["logits"]["original"] for each in (batch, wider))
        assert short.dtype == jnp.float64
        oracle.close(padded, short, 1e-13)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_in_front(family, tmp_path):
    """RoBERTa counts positions from the first real token, the others from the first column."""
    theirs = oracle.make(family, num_hidden_layers=1)
    checkpoint = models.load(oracle.save(theirs, tmp_path))
    batch = jax.tree.map(lambda value: value[:, ::-1].copy(), oracle.batch(family))
    batch.mask[:, 0] = 1  # the first token is what the heads read
    logits = checkpoint.model.apply(checkpoint.params, batch)["logits"]["original"]
    oracle.close(logits, oracle.logits(theirs, family, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_and_pooled_are_those_of_the_bare_model(family, tmp_path):
    theirs = oracle.make(family, "Model")
    checkpoint = models.load(oracle.save(theirs, tmp_path))
    assert checkpoint.heads == {}
    assert checkpoint.primary is None
    batch = oracle.batch(family)
    outputs = checkpoint.model.apply(checkpoint.params, batch)
    with torch.no_grad():
        expected = theirs(**oracle.inputs(family, batch))
    real = batch.mask == 1
    hidden = expected.last_hidden_state.numpy()
    oracle.close(checkpoint.model.states(checkpoint.params, batch, read=("tokens",)).tokens[real], hidden[real])
    oracle.close(outputs["pooled"], expected.pooler_output.numpy() if family == "bert" else hidden[:, 0])
    assert outputs["logits"] == {}


@pytest.mark.parametrize("activation", ["gelu", "gelu_python", "quick_gelu", "swish", "leaky_relu", "mish", "relu6"])
def test_activations(activation):
    from transformers.activations import ACT2FN

    from fft.models.layers import ACTIVATIONS

    x = np.linspace(-12, 12, 4001, dtype=np.float32)
    np.testing.assert_allclose(ACTIVATIONS[activation](x), ACT2FN[activation](torch.tensor(x)).numpy(), atol=2e-6)


def test_minilm_parity(tmp_path):
    from transformers import AutoModel

    from fft.core.errors import MachineError
    from fft.data import demo

    try:
        folder = demo.minilm_folder()
    except MachineError as error:
        pytest.skip(f"MiniLM is not in the cache: {error}")
    checkpoint = models.load(folder)
    theirs = AutoModel.from_pretrained(folder).eval()
    rng = np.random.default_rng(0)
    mask = (np.arange(24)[None] < np.array([24, 17, 5, 9])[:, None]).astype(np.int32)
    ids = (rng.integers(1000, 30522, (4, 24)) * mask).astype(np.int32)
    batch = Inputs(ids, mask, (rng.integers(0, 2, (4, 24)) * mask).astype(np.int32))
    head = checkpoint.model.init_head(jax.random.key(0), 3)
    outputs = jax.jit(checkpoint.model.apply)({**checkpoint.params, "heads": {"new": head}}, batch)
    with torch.no_grad():
        pooled = theirs(**oracle.inputs("bert", batch)).pooler_output.numpy()
    oracle.close(outputs["pooled"], pooled)
    oracle.close(outputs["logits"]["new"], pooled @ np.asarray(head["out"]["kernel"]))

    heads = {"params": {**checkpoint.params, "heads": {"original": head}}, "primary": "original"}
    checkpoint = checkpoint._replace(**heads, heads={"original": models.Head("classification", ("a", "b", "c"))})
    models.save(checkpoint, tmp_path / "head")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "head").eval()
    agree(theirs, models.load(tmp_path / "head"), "bert", batch, tmp_path / "back")
    wider = jax.tree.map(lambda value: np.pad(value, ((0, 0), (0, 8))), batch)
    short, long = (checkpoint.model.apply(checkpoint.params, texts)["logits"]["original"] for texts in (batch, wider))
    oracle.close(long, short, 1e-6)
