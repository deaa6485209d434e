"""The fused Fisher pass: every leaf of every family against float64 gradients taken one example at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from fft import models
from fft.core.batch import States, weighted_sum
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import flatten
from fft.fisher.diagonal import diagonal_fisher
from fft.models.layers import Dense
from fft.models.probes import fused
from fft.tasks import Classify
from tests.helpers import torch_models as theirs
from tests.helpers.language_model import LANGUAGE, decoder, language_logits, sequence_nll
from tests.helpers.per_example import KEY_BIAS, cross_entropy, family_batch, loop
from tests.helpers.toy import toy_batch

TOLERANCE = 1e-5  # ||a - b|| / ||b|| of every leaf


def close(actual, expected, tolerance=TOLERANCE):
    """Assert that every leaf but the key biases is within the tolerance."""
    for path, leaf in flatten(expected).items():
        if not path.endswith(KEY_BIAS):
            a, b = np.asarray(flatten(actual)[path], np.float64), np.asarray(leaf, np.float64)
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), path
            assert np.linalg.norm(b) > 0, f"{path} has no gradient: the comparison says nothing"


@pytest.fixture(scope="module", params=sorted(theirs.FAMILIES))
def family(request, tmp_path_factory):
    """(name, Checkpoint with a second head) of a random small model."""
    folder = tmp_path_factory.mktemp(request.param)
    model = theirs.make(request.param, num_labels=3)
    checkpoint = models.load(theirs.save(model, folder))
    head = checkpoint.model.init_head(jax.random.key(3), 3)
    heads = {**checkpoint.params["heads"], "second": jax.tree.map(lambda x: x + 0.1, head)}
    return request.param, checkpoint._replace(params={**checkpoint.params, "heads": heads})


def without(params, head):
    """The parameters without another head."""
    return {**params, "heads": {head: params["heads"][head]}}


@pytest.mark.parametrize(
    ("family", "head"),
    [("bert", "original"), ("bert", "second"), ("distilbert", "original"), ("roberta", "original")],
    indirect=["family"],
)
def test_fused_and_vmapped_equal_the_loop_on_every_leaf(family, head):
    name, checkpoint = family
    batch, task = family_batch(name), Classify(head, ("a", "b", "c"))
    expected = loop(checkpoint.model.apply, checkpoint.params, batch, cross_entropy(head))
    for way in ("fused", "vmapped"):
        settings = {"estimator": "empirical", "way": way, "chunk": 2}
        got = diagonal_fisher(
            checkpoint.model, task, checkpoint.params, [batch], jax.random.key(0), **settings
        ).diagonal
        close(without(got, head), without(expected, head))
        other = "second" if head == "original" else "original"
        assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(got["heads"][other]))


EXACT, MC = {"estimator": "exact"}, {"estimator": "mc", "draws": 3}


@pytest.mark.parametrize(
    ("family", "settings"),
    [("bert", MC), ("bert", EXACT), ("distilbert", EXACT), ("roberta", MC)],
    indirect=["family"],
)
def test_fused_equals_vmapped_for_labels_of_the_model(family, settings):
    name, checkpoint = family
    batch, task = family_batch(name), Classify("original", ("a", "b", "c"))
    arguments = (checkpoint.model, task, checkpoint.params, [batch, batch], jax.random.key(1))
    fused_way, vmapped = (diagonal_fisher(*arguments, way=way, **settings) for way in ("fused", "vmapped"))
    close(without(fused_way.diagonal, "original"), without(vmapped.diagonal, "original"))
    assert fused_way[1:4] == vmapped[1:4] and fused_way.examples == 8


def test_fused_equals_torch_autograd_on_the_same_weights(tmp_path):
    model = theirs.make("bert", num_labels=3)
    checkpoint = models.load(theirs.save(model, tmp_path))
    batch = family_batch("bert")
    total = {}
    inputs = theirs.inputs("bert", batch)
    for b in range(4):
        model.zero_grad()
        logits = model(**{name: value[b : b + 1] for name, value in inputs.items()}).logits
        torch.nn.functional.cross_entropy(logits, torch.tensor(batch.targets[b : b + 1]).long()).backward()
        for name, parameter in model.named_parameters():
            total[name] = total.get(name, 0) + parameter.grad.double().numpy() ** 2 / 4
    got = diagonal_fisher(
        checkpoint.model,
        Classify("original", ("a", "b", "c")),
        checkpoint.params,
        [batch],
        jax.random.key(0),
        estimator="empirical",
    ).diagonal
    pairs = {
        "bert.embeddings.word_embeddings.weight": got["embed"]["word"]["embedding"],
        "bert.embeddings.token_type_embeddings.weight": got["embed"]["type"]["embedding"],
        "bert.encoder.layer.0.attention.self.query.weight": got["layers"]["0"]["attention"]["query"]["kernel"].T,
        "bert.encoder.layer.1.output.dense.weight": got["layers"]["1"]["mlp"]["down"]["kernel"].T,
        "bert.encoder.layer.1.output.LayerNorm.weight": got["layers"]["1"]["mlp_norm"]["scale"],
        "bert.pooler.dense.bias": got["pooler"]["bias"],
        "classifier.weight": got["heads"]["original"]["out"]["kernel"].T,
    }
    close({name.replace("/", "."): leaf for name, leaf in pairs.items()}, {name: total[name] for name in pairs})


@pytest.mark.parametrize("family", ["bert"], indirect=True)
def test_sums_are_float32_whatever_the_model_computes_in(family):
    """The squares of bfloat16 gradients are added up in float32: 40 equal batches give the mean of one, to float32."""
    name, checkpoint = family
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), checkpoint.params)
    arguments = (checkpoint.model, Classify("original", ("a", "b", "c")), params)
    batch = family_batch(name)

    def fisher(batches, way):
        settings = {"estimator": "empirical", "way": way}
        return diagonal_fisher(*arguments, batches, jax.random.key(0), **settings).diagonal

    once, often = fisher([batch], "fused"), fisher([batch] * 40, "fused")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(once))
    close(without(often, "original"), without(once, "original"), 1e-6)
    whole = diagonal_fisher(
        checkpoint.model, arguments[1], checkpoint.params, [batch], jax.random.key(0), estimator="empirical"
    )
    for way in ("fused", "vmapped"):
        total, expected = (
            np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
            for tree in (fisher([batch], way), whole.diagonal)
        )
        assert np.linalg.norm(total - expected) <= 0.2 * np.linalg.norm(expected), "bfloat16 has 8 bits"


# --- a tiny decoder: no biases, fused projections, RMS norm, tied output embeddings ---


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_squares_the_summed_nll_of_a_sequence(tied):
    params, batch = decoder(tied)

    expected = loop(language_logits, params, batch, sequence_nll)
    for way in ("fused", "vmapped"):
        got = diagonal_fisher(
            LANGUAGE, LANGUAGE, params, [batch], jax.random.key(0), estimator="empirical", way=way
        ).diagonal
        close(got, expected)


def test_a_language_model_draws_the_same_tokens_either_way():
    params, batch = decoder()
    ways = [
        diagonal_fisher(LANGUAGE, LANGUAGE, params, [batch], jax.random.key(0), draws=2, way=way).diagonal
        for way in ("fused", "vmapped")
    ]
    close(*ways)


# --- errors, and the two traps ---


class Bare(NamedTuple):
    """A module whose result is the logits."""

    module: nn.Module

    def states(self, params, batch, *, read=("pooled",), key=None, layers=()):
        return States(self.module.apply({"params": params}, batch.x))

    def readout(self, params, head, states, *, key=None):
        return states


class Twice(nn.Module):
    """A layer used twice."""

    @nn.compact
    def __call__(self, x):
        layer = Dense(3, name="layer")
        return layer(jnp.tanh(layer(x)))


class Raw(nn.Module):
    """A rule's layer, and its kernel read a second time without one."""

    @nn.compact
    def __call__(self, x):
        layer = Dense(3, name="layer")
        y = layer(x)
        return y + jnp.sum(layer.get_variable("params", "kernel"))


class Unknown(nn.Module):
    """A parameter of a module that no rule knows."""

    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, (3,))


class Shared(nn.Module):
    """A dense layer on one row for the whole batch."""

    @nn.compact
    def __call__(self, x):
        return x + Dense(3, name="layer")(jnp.ones((1, 3)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Twice(), "cannot cover layer/(kernel|bias): 2 rules consume it, expected 1"),
        (Raw(), "the model reads layer/kernel without a rule"),
        (Unknown(), "cannot cover scale: 0 rules consume it, expected 1"),
        (Shared(), "one row per example at layer; it has 1 rows for 2"),
    ],
    ids=["twice", "raw", "unknown", "shared"],
)
def test_a_leaf_that_is_not_consumed_exactly_once_is_refused_by_name(module, message):
    batch = toy_batch(rows=2, width=3)
    params = module.init(jax.random.key(0), batch.x)["params"]

    arguments = (Bare(module), Classify("original", ("a", "b", "c")), params, [batch], jax.random.key(0))
    with pytest.raises(InputError, match=message):
        diagonal_fisher(*arguments)
    assert diagonal_fisher(*arguments, way="vmapped").examples == 2


def test_a_leaf_that_is_read_without_a_rule_but_not_requested_does_no_harm():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Dense(3, name="layer")(x) * self.param("scale", nn.initializers.ones, (3,))

    batch = toy_batch(rows=2, width=3)
    params = {**Scaled().init(jax.random.key(0), batch.x)["params"], "scale": jnp.array([1.0, 2.0, 3.0])}

    arguments = (Bare(Scaled()), Classify("original", ("a", "b", "c")), params, [batch], jax.random.key(0))
    ways = [
        diagonal_fisher(*arguments, way=way, where=lambda path: path != "scale").diagonal
        for way in ("fused", "vmapped")
    ]
    close(*ways)


@pytest.mark.parametrize("family", ["bert"], indirect=True)
def test_the_pass_and_training_do_not_see_each_others_programs(family):
    """Although jit's cache does not notice interception, the gradient and the Fisher stay bit for bit the same."""
    name, checkpoint = family
    batch, task = family_batch(name), Classify("original", ("a", "b", "c"))

    def loss(params):
        return weighted_sum(task.terms(outputs_of(checkpoint.model, params, batch), batch), batch.weight)

    def fisher():
        arguments = (checkpoint.model, task, checkpoint.params, [batch], jax.random.key(0))
        return diagonal_fisher(*arguments, estimator="empirical").diagonal

    first = fisher()
    plain = jax.grad(loss)(checkpoint.params)
    second = fisher()
    again = jax.grad(loss)(checkpoint.params)
    for a, b in ((first, second), (plain, again)):
        assert all(x.tobytes() == y.tobytes() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("family", ["bert"], indirect=True)
def test_only_the_requested_leaves(family):
    name, checkpoint = family
    arguments = (checkpoint.model, Classify("original", ("a", "b", "c")), checkpoint.params, [family_batch(name)])
    whole = diagonal_fisher(*arguments, jax.random.key(0)).diagonal
    some = diagonal_fisher(*arguments, jax.random.key(0), where=lambda path: path.startswith("layers/1")).diagonal
    assert list(some) == ["layers"] and list(some["layers"]) == ["1"]
    close(some, {"layers": {"1": whole["layers"]["1"]}})


def test_rules_name_every_module_they_know():
    assert {module.__name__ for module, _ in fused.RULES} == {"Dense", "LayerNorm", "RMSNorm", "Embed", "Projection"}
