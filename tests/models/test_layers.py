"""Dropout in expectation, the low-rank path against merged weights, heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft import models
from fft.core.tree import flatten, unflatten
from fft.models import dropout
from fft.models.dropout import drop, random_words
from fft.models.layers import Dense
from tests.helpers import torch_models as oracle


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """One checkpoint per family with dropout on."""
    root = tmp_path_factory.mktemp("layers")
    return {family: models.load(oracle.save(oracle.make(family), root / family)) for family in oracle.FAMILIES}


def words(seed, salt=7, shape=(64, 33, 127)):
    return np.asarray(jax.jit(random_words, static_argnums=(1, 2))(jnp.uint32(seed), salt, shape))


def uncorrelated(first, second):
    """Assert that two arrays of words agree in each of the 32 bits half of the time (5 standard deviations)."""
    agree = [((first ^ second) >> bit & 1).mean() for bit in range(32)]
    assert np.abs(np.array(agree) - 0.5).max() < 5 * 0.5 / np.sqrt(first.size)


def test_random_words_are_uniform_and_independent():
    base = words((3, 5))
    counts = np.bincount(base.ravel() >> 24, minlength=256)
    expected = base.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * np.sqrt(2 * 255)
    assert len(np.unique(base)) > 0.999 * base.size
    for axis in range(3):
        moved = np.moveaxis(base, axis, 0)
        uncorrelated(moved[:-1], moved[1:])
    for other in (words((3, 6)), words((2, 5)), words((5, 3)), words((3, 5), salt=8), words((3, 5), salt=7 + 2**31)):
        uncorrelated(base, other)
    uncorrelated(words((0, 0)), words((0, 1)))
    np.testing.assert_array_equal(base, words((3, 5)))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("traced", [False, True])
def test_drop_keeps_the_mean_and_the_rate(rate, traced):
    x = jnp.ones((64, 33, 127))
    seed = jnp.uint32((1, 2))
    y = np.asarray(jax.jit(drop, static_argnums=3)(x, rate, seed, 0) if traced else drop(x, rate, seed, 0))
    assert abs((y == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / y.size)
    assert abs(y.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / y.size)
    np.testing.assert_allclose(y[y > 0], 1 / (1 - rate), rtol=1e-6)
    assert (np.asarray(drop(x, jnp.float32(0), seed, 0)) == 1).all()


def test_every_place_of_a_network_has_its_own_mask(loaded):
    salts = []
    original = dropout.salt_of
    try:
        dropout.salt_of = lambda module: salts.append(original(module)) or salts[-1]
        checkpoint = loaded["roberta"]
        jax.eval_shape(checkpoint.model.apply, checkpoint.params, oracle.batch("roberta"), jax.random.key(0))
    finally:
        dropout.salt_of = original
    assert len(salts) == len(set(salts)) == 1 + 2 * 3 + 2


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_no_key_is_deterministic_and_a_key_is_reproducible(loaded, impl):
    checkpoint = loaded["bert"]
    batch = oracle.batch("bert")
    apply = jax.jit(checkpoint.model.apply)

    def logits(*seed):
        key = [jax.random.key(number, impl=impl) for number in seed]
        return np.asarray(apply(checkpoint.params, batch, *key)["logits"]["original"])

    np.testing.assert_array_equal(logits(), logits())
    np.testing.assert_array_equal(logits(0), logits(0))
    assert np.abs(logits(0) - logits(1)).max() > 1e-3
    assert np.abs(logits(0) - logits()).max() > 1e-3


def test_every_rate_has_its_place(tmp_path):
    """With one rate on at a time the key matters; with all at 0 it does not."""
    rates = {
        "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
        "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
        "distilbert": ("dropout", "attention_dropout", "seq_classif_dropout"),
    }
    for family, names in rates.items():
        for on in (*names, None):
            settings = {name: 0.5 * (name == on) for name in names}
            folder = oracle.save(oracle.make(family, num_hidden_layers=1, **settings), tmp_path / f"{family}-{on}")
            checkpoint = models.load(folder)
            batch = oracle.batch(family)
            noisy = checkpoint.model.apply(checkpoint.params, batch, jax.random.key(0))
            quiet = checkpoint.model.apply(checkpoint.params, batch)
            changed = bool(jnp.any(noisy["logits"]["original"] != quiet["logits"]["original"]))
            assert changed == (on is not None), (family, on)
            pooled_changed = bool(jnp.any(noisy["pooled"] != quiet["pooled"]))
            assert pooled_changed == (on in names[:2]), (family, on)


def test_classifier_dropout_falls_back_to_the_hidden_rate(loaded):
    config = loaded["bert"].model.config
    assert config.classifier_dropout is None
    assert config.head_dropout == config.hidden_dropout_prob == 0.1


def with_side_paths(params, modules, scale, rate=None):
    """The tree with random adapters beside the kernels named, and the same adapters merged into them."""
    leaves, merged = flatten(params), dict(flatten(params))
    rng = np.random.default_rng(0)
    for module in modules:
        fan_in, fan_out = leaves[f"{module}/kernel"].shape
        a, b = rng.normal(size=(fan_in, 4)) / 5, rng.normal(size=(4, fan_out)) / 5
        side = {"lora_a": jnp.float32(a), "lora_b": jnp.float32(b), "lora_scale": jnp.float32(scale)}
        if rate is not None:
            side["lora_dropout"] = jnp.float32(rate)
        leaves.update({f"{module}/{name}": leaf for name, leaf in side.items()})
        merged[f"{module}/kernel"] = jnp.float32(np.asarray(merged[f"{module}/kernel"]) + scale * a @ b)
    return unflatten(leaves), unflatten(merged)


def test_the_side_path_equals_merged_weights(loaded):
    for family, checkpoint in loaded.items():
        modules = [f"layers/{i}/{role}" for i in range(2) for role in ("attention/query", "attention/out", "mlp/up")]
        modules.append("heads/original/out")
        side, merged = with_side_paths(checkpoint.params, modules, 2.0, rate=0.3)
        batch = oracle.batch(family)
        expected = checkpoint.model.apply(merged, batch)["logits"]["original"]
        oracle.close(checkpoint.model.apply(side, batch)["logits"]["original"], expected)
        off = checkpoint.model.apply(checkpoint.params, batch)["logits"]["original"]
        assert float(jnp.abs(expected - off).max()) > 1e-2


def test_side_path_dropout_masks_each_token_and_only_the_side_path():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(16, 5)), "bias": rng.normal(size=5), "lora_a": rng.normal(size=(16, 3))}
    params.update(lora_b=rng.normal(size=(3, 5)), lora_scale=np.array(0.5), lora_dropout=np.array(0.25))
    params = jax.tree.map(jnp.float32, params)
    x = jnp.float32(rng.normal(size=(1, 1, 16)) * np.ones((40, 50, 1)))
    plain = Dense(5).apply({"params": {name: params[name] for name in ("kernel", "bias")}}, x)
    full = Dense(5).apply({"params": params}, x)
    noisy = Dense(5).apply({"params": params}, x, jnp.uint32((0, 1)))
    side = np.asarray(noisy - plain).reshape(-1, 5)
    assert len(np.unique(side.round(5), axis=0)) > 1500
    error = np.abs(side.mean(0) - np.asarray(full - plain)[0, 0])
    assert (error < 5 * side.std(0) / np.sqrt(len(side))).all()


def test_a_fresh_head(loaded):
    for checkpoint in loaded.values():
        head = checkpoint.model.init_head(jax.random.key(0), 3)
        assert jax.tree.structure(head) == jax.tree.structure(checkpoint.params["heads"]["original"])
        leaves = flatten(head)
        assert leaves["out/kernel"].shape == (48, 3)
        for path, leaf in leaves.items():
            assert (np.asarray(leaf) == 0).all() if path.endswith("bias") else 0.01 < leaf.std() < 0.03
        other = flatten(checkpoint.model.init_head(jax.random.key(1), 3))
        assert (other["out/kernel"] != leaves["out/kernel"]).any()


def test_a_row_without_a_real_token_is_finite(loaded):
    checkpoint = loaded["bert"]
    batch = oracle.batch("bert", lengths=[5, 3, 0, 0])

    def loss(params):
        return checkpoint.model.apply(params, batch)["logits"]["original"].sum()

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(checkpoint.params)))
