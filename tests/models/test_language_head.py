"""The language heads, of the next and of masked tokens: logits, loss, gradients and files against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from fft import models
from fft.core.batch import Inputs
from fft.core.tree import flatten
from fft.models.files.keys import rename
from fft.models.files.unembed import written_keys
from tests.helpers.next_token import next_token_nll
from tests.helpers.torch_language import CASES, LABELS, MASKED, TEXTS, close_slopes, forward, make


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A function that returns (torch model, our checkpoint) of a case."""
    made = {}

    def get(case):
        if case not in made:
            theirs, folder = make(case), tmp_path_factory.mktemp("theirs")
            theirs.save_pretrained(folder)
            made[case] = theirs, models.load(folder, language=True)
        return made[case]

    return get


def logits_of(checkpoint, params, inputs=TEXTS):
    states = checkpoint.model.states(params, inputs, read=("tokens",))
    return checkpoint.model.unembed(params, states.tokens)


def loss_of(checkpoint, params, masked):
    logits = logits_of(checkpoint, params)
    if masked:
        nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, np.maximum(LABELS, 0))
        weight = jnp.asarray(LABELS >= 0, jnp.float32)
    else:
        nll, weight = next_token_nll(logits, TEXTS.ids, TEXTS.mask)
    return jnp.sum(weight * nll) / jnp.sum(weight)


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients(pair, case):
    theirs, checkpoint = pair(case)
    answer = forward(theirs)
    expected, real = answer.logits.detach().numpy(), TEXTS.mask == 1
    ours = np.asarray(logits_of(checkpoint, checkpoint.params))
    assert np.abs(ours - expected)[real].max() <= 1e-5 * max(1.0, np.abs(expected[real]).max())
    loss = jax.jit(jax.value_and_grad(lambda params: loss_of(checkpoint, params, case in MASKED)))
    value, slope = loss(checkpoint.params)
    assert float(value) == pytest.approx(answer.loss.item(), rel=1e-5)

    named = dict(theirs.named_parameters())
    slopes = dict(zip(named, torch.autograd.grad(answer.loss, named.values(), allow_unused=True), strict=True))
    spare = {name for name, slope in slopes.items() if slope is None}
    assert spare <= {"cls.predictions.bias", "lm_head.bias"} and bool(spare) == (
        case in ("bert untied", "roberta untied")
    )
    slopes = {name: slope.numpy() for name, slope in slopes.items() if slope is not None}
    kind = models.FAMILIES[CASES[case][0]]
    head = {name: path for name, path in written_keys(kind, checkpoint.model.config).items() if name in slopes}
    body = kind.split({name: slope for name, slope in slopes.items() if name not in head})
    paths = rename(body, kind, checkpoint.model.config, "original", "torch") | head
    close_slopes(flatten(slope), {**slopes, **body}, paths)


def test_the_leaves_are_those_that_the_config_says(pair):
    transform = {"dense/kernel", "norm/scale"}
    biased = {*transform, "dense/bias", "norm/bias"}
    for case, expected in {
        "llama": set(),
        "llama untied": {"kernel"},
        "bert": {*biased, "bias"},
        "roberta untied": {*biased, "bias", "kernel"},
        "modernbert": {*transform, "bias"},
        "modernbert untied": {*transform, "bias", "kernel"},
        "modernbert biases": biased,
    }.items():
        leaves = flatten(pair(case)[1].params)
        assert {path.removeprefix("unembed/") for path in leaves if path.startswith("unembed/")} == expected, case
        assert not any(path.startswith(("pooler/", "heads/")) for path in leaves)


def test_packed_texts_have_the_loss_of_separate_ones(pair):
    _, checkpoint = pair("llama")
    ids = np.concatenate([TEXTS.ids[1, :7], TEXTS.ids[2, :3], [0, 0]])[None]
    segments = np.repeat([[1] * 7 + [2] * 3 + [0] * 2], 1, axis=0).astype(np.int32)
    packed = Inputs(ids, segments, 0 * ids)
    nll, weight = next_token_nll(logits_of(checkpoint, checkpoint.params, packed), ids, segments)
    apart, weights = next_token_nll(logits_of(checkpoint, checkpoint.params), TEXTS.ids, TEXTS.mask)
    assert weight.tolist() == [[1.0] * 6 + [0.0] + [1.0] * 2 + [0.0] * 2] and weights.sum() == 11 + 6 + 2
    expected = np.concatenate([apart[1, :6], apart[2, :2]])
    np.testing.assert_allclose(nll[0][weight[0] > 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_is_saved(pair, case, tmp_path):
    theirs, checkpoint = pair(case)
    saved = models.save(checkpoint, tmp_path / "m")
    auto = AutoModelForMaskedLM if case in MASKED else AutoModelForCausalLM
    again, report = auto.from_pretrained(saved, attn_implementation="eager", output_loading_info=True)
    assert type(again) is type(theirs) and not any(report.values()), report
    with torch.no_grad():
        np.testing.assert_array_equal(forward(again.eval()).logits.numpy(), forward(theirs).logits.numpy())
    leaves, found = flatten(checkpoint.params), flatten(models.load(saved, language=True).params)
    assert set(leaves) == set(found) and all((leaves[path] == found[path]).all() for path in leaves)
