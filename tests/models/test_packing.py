"""Packed rows have the loss and the gradient of the same texts in rows of their own; others refuse them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft import models
from fft.core.batch import weighted_sum
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import flatten
from fft.data.batches import collate
from fft.data.packing import collate_packs, packs
from fft.fisher.diagonal import diagonal_fisher
from fft.tasks import Language
from tests.helpers.language_rows import texts
from tests.helpers.torch_language import make

ROWS = texts([9, 4, 2, 7, 5, 1, 3], share=0.7)
WINDOWS = ("mistral", "gemma2", "gemma3_text")
"""families with windows shorter than a packed row, with softcaps, and with rotations that differ by layer"""


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    @functools.cache
    def get(case):
        folder = tmp_path_factory.mktemp("theirs")
        make(case).save_pretrained(folder)
        return models.load(folder, language=True)

    return get


def apart():
    return collate(ROWS, np.arange(7), 7, 9, 0, 7)


def together():
    return collate_packs(ROWS, [np.array(pack) for pack in packs(ROWS.lengths(), 16)], 16, 0, 13)


def mean_nll(model, params, batch):
    task = Language("unembed")
    outputs = outputs_of(model, params, batch, read=("tokens",))
    return weighted_sum(task.terms(outputs, batch), batch.weight) / jnp.sum(batch.weight)


@pytest.mark.parametrize("case", ["llama", "gpt2", *WINDOWS])
def test_packed_texts_have_the_loss_and_gradient_of_separate_ones(load, case):
    checkpoint, packed = load(case), together()
    assert packed.ids.shape == (2, 16) and packed.weight.sum() == apart().weight.sum() == ROWS.target_counts().sum()
    slope = jax.jit(jax.value_and_grad(functools.partial(mean_nll, checkpoint.model)))
    (found, gradient), (expected, wanted) = slope(checkpoint.params, packed), slope(checkpoint.params, apart())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    leaves, largest = flatten(wanted), max(float(np.abs(leaf).max()) for leaf in flatten(wanted).values())
    for path, leaf in flatten(gradient).items():
        least = max(float(np.abs(leaves[path]).max()), 0.01 * largest)
        assert np.abs(leaf - leaves[path]).max() <= 1e-5 * least, path


def test_encoders_refuse_packed_rows(load):
    for case in ("bert", "modernbert"):
        checkpoint = load(case)
        with pytest.raises(InputError, match=f"{checkpoint.model.family} would read as one: .* leave out --pack"):
            checkpoint.model.states(checkpoint.params, together(), read=("tokens",))


def test_the_fisher_information_refuses_packed_rows(load):
    checkpoint = load("llama")
    with pytest.raises(InputError, match="a packed row holds several: give batches of one text a row"):
        diagonal_fisher(checkpoint.model, Language("unembed"), checkpoint.params, [together()], jax.random.key(0))
