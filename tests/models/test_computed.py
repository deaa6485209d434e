"""Models in bfloat16: which operations are in which format, gradients, the rounded base, and recomputed blocks."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.extend.core import jaxprs_in_params
from transformers import AutoModelForSequenceClassification

from fft import models
from fft.core.batch import Inputs
from fft.core.computation import PRECISE, Computation
from fft.core.tree import flatten, unflatten
from fft.models.model import build
from tests.helpers import torch_decoders, torch_models

HALF, AGAIN = Computation(compute="bfloat16"), Computation(remat="full")
FAMILIES = ("bert", "distilbert", "llama", "gemma3_text", "gpt2")
PRECISE_OPERATIONS = {"exp", "rsqrt", "reduce_max", "log", "cos"}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    family = request.param
    theirs = torch_models if family in torch_models.FAMILIES else torch_decoders
    folder = tmp_path_factory.mktemp(family)
    theirs.make(family).save_pretrained(folder)
    return models.load(folder)


def rows(checkpoint):
    family = checkpoint.model.family
    return torch_models.batch(family) if family in torch_models.FAMILIES else torch_decoders.texts([12, 7, 3])


def operations(jaxpr):
    """Every operation of a program and of the programs in it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from operations(inner)


def loss(checkpoint, batch):
    """The mean of the squared logits, as a function of the parameters."""

    def of(params):
        return jnp.mean(jnp.square(checkpoint.model.apply(params, batch)["logits"]["original"]))

    return of


def test_products_are_in_bfloat16_and_norms_softmax_and_results_in_float32(checkpoint):
    half, batch = models.computed(checkpoint, HALF), rows(checkpoint)
    jaxpr = jax.make_jaxpr(lambda params: half.model.states(params, batch, read=("tokens", "pooled")))(half.params)
    formats = {}
    for operation in operations(jaxpr.jaxpr):
        formats.setdefault(operation.primitive.name, set()).update(
            variable.aval.dtype for variable in operation.invars if hasattr(variable.aval, "dtype")
        )
    assert formats["dot_general"] == {jnp.dtype("bfloat16")}
    for name in PRECISE_OPERATIONS & set(formats):
        assert jnp.dtype("bfloat16") not in formats[name], name
    assert {variable.aval.dtype for variable in jaxpr.jaxpr.outvars} == {jnp.dtype("float32")}


def test_gradients_are_rounded_as_much_as_those_of_torch_in_bfloat16(checkpoint):
    """The relative errors of the leaves, median against the median of torch's autocast."""
    half, batch = models.computed(checkpoint, HALF), rows(checkpoint)
    exact, rounded = (flatten(jax.jit(jax.grad(loss(one, batch)))(one.params)) for one in (checkpoint, half))
    assert all(gradient.dtype == jnp.float32 for gradient in rounded.values())
    theirs = torch_slopes(checkpoint, batch, False), torch_slopes(checkpoint, batch, True)
    ours, torchs = np.median(errors(rounded, exact)), np.median(errors(theirs[1], theirs[0]))
    assert 1e-3 < ours < 2 * torchs


def errors(rounded, exact):
    """The relative error of every leaf whose gradient is not next to 0; that of a key's bias is 0."""
    return [
        np.linalg.norm(np.asarray(rounded[path]) - gradient) / np.linalg.norm(gradient)
        for path, gradient in exact.items()
        if np.linalg.norm(gradient) > 1e-4 and not path.endswith(("key/bias", "key.bias", "k_lin.bias"))
    ]


def torch_slopes(checkpoint, batch, half):
    """{name: gradient} of the same loss by transformers."""
    theirs, family = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder), checkpoint.model.family
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        if family in torch_models.FAMILIES:
            logits = theirs(**torch_models.inputs(family, batch)).logits
        else:
            logits = torch_decoders.forward(theirs, batch)[1]
    torch.mean(logits.float() ** 2).backward()
    return {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}


def test_recomputed_blocks_give_the_same_gradients(checkpoint):
    again, batch = models.computed(checkpoint, AGAIN), rows(checkpoint)
    seeded = [
        lambda params, model=one.model: jnp.sum(model.states(params, batch, key=jax.random.key(3)).pooled ** 2)
        for one in (checkpoint, again)
    ]
    with jax.enable_x64(True):  # so that the order of the sums does not matter
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), checkpoint.params)
        expected, found = (flatten(jax.jit(jax.grad(of))(params)) for of in seeded)
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], gradient, atol=1e-12 * max(1.0, np.abs(gradient).max()), err_msg=path)
    programs = [jax.make_jaxpr(jax.grad(of))(checkpoint.params).jaxpr for of in seeded]
    first, second = ([operation.primitive.name for operation in operations(program)] for program in programs)
    assert second.count("dot_general") > first.count("dot_general")


def test_a_word_that_occurs_often_gets_its_whole_gradient(tmp_path):
    """Summed in bfloat16, its 256th share of the gradient would be lost."""
    torch_decoders.make("llama", num_hidden_layers=1, max_position_embeddings=300).save_pretrained(tmp_path)
    exact = models.load(tmp_path)
    half = models.computed(exact, HALF)
    ids = np.full((2, 300), 7, np.int32)
    batch = Inputs(ids, np.ones_like(ids), np.zeros_like(ids))

    def total(one):
        return lambda params: jnp.sum(one.model.states(params, batch, read=("tokens",)).tokens)

    expected, found = (
        jax.jit(jax.grad(total(one)))(one.params)["embed"]["word"]["embedding"][7] for one in (exact, half)
    )
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_the_scale_of_block_outputs_is_not_rounded(tmp_path):
    """0.22 would become 0.2197 in bfloat16, a thousandth less in every block."""
    torch_decoders.make("granite", num_hidden_layers=1, hidden_size=240).save_pretrained(tmp_path)
    exact = models.load(tmp_path)
    leaves = flatten(exact.params)
    leaves["layers/0/mlp/down/kernel"] *= 0  # so that the block adds attention's output only
    batch = torch_decoders.texts([12] * 40)

    def added(scale, computation):
        config = replace(exact.model.config, residual_multiplier=scale)
        model = build(models.FAMILIES["granite"], config, computation)
        layers = jax.jit(partial(model.states, read=("tokens",), layers=(0, 1)))(unflatten(leaves), batch).layers
        return np.asarray(layers[1] - layers[0], np.float64).ravel()

    whole, scaled = added(1.0, PRECISE), added(0.22, HALF)
    assert scaled @ whole / (whole @ whole) == pytest.approx(0.22, abs=1e-4)


def test_a_rounded_base_keeps_vectors_and_heads_and_says_so(checkpoint):
    rounded = models.computed(checkpoint, Computation(base_dtype="bfloat16"))
    for path, leaf in flatten(rounded.params).items():
        assert leaf.dtype == (jnp.bfloat16 if leaf.ndim == 2 and not path.startswith("heads/") else jnp.float32), path
    assert "rounds the matrices of the base, by up to 0.003" in rounded.notes[-1]
    batch = rows(checkpoint)
    widened = models.computed(rounded, PRECISE)
    assert all(leaf.dtype == jnp.float32 for leaf in flatten(widened.params).values())
    found, expected = (jax.jit(one.model.apply)(one.params, batch)["logits"]["original"] for one in (rounded, widened))
    np.testing.assert_array_equal(found, expected)
    assert models.computed(widened, Computation(base_dtype="bfloat16")).notes == rounded.notes, "nothing left to round"
