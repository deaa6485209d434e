"""The second-order rise along a change: exact on a quadratic, and that of the whole Fisher matrix written out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from toy import Toy, toy_batch, toy_params

from fft.curvature import Curvature
from fft.tasks import Classify, Regress


class Line(NamedTuple):
    """f = x w, so that squared errors are a quadratic in w."""

    def apply(self, params, batch, key=None):
        return {"logits": {"line": jnp.asarray(batch["x"]) @ params["heads"]["line"]["out"]["kernel"]}}


def mean_loss(model, task, params, batches):
    pairs = [task.loss(model.apply(params, batch), batch) for batch in batches]
    return float(sum(nll.sum() for nll, _ in pairs) / sum(weight.sum() for _, weight in pairs))


def test_on_a_quadratic_the_rises_of_a_change_and_of_its_opposite_have_it_as_their_mean():
    """L(θ* ± Δ) = L(θ*) ± gΔ + ½ ΔᵀHΔ, and H is F."""
    task, batches = Regress("line", sigma=0.7), [toy_batch(seed, 6, filler=seed) for seed in (0, 2)]
    batches = [{**batch, "label": batch["label"].astype(np.float32)} for batch in batches]
    rng = np.random.default_rng(0)
    base, step = ({"heads": {"line": {"out": {"kernel": jnp.asarray(rng.normal(size=(4, 1)))}}}} for _ in range(2))
    ends = [jax.tree.map(lambda a, b, sign=sign: a + sign * b, base, step) for sign in (1, -1)]
    curvature = Curvature(Line(), task, base, batches)
    losses = [mean_loss(Line(), task, params, batches) for params in (base, *ends)]
    expected = (losses[1] + losses[2]) / 2 - losses[0]
    assert curvature.rise(ends[0]) == pytest.approx(expected, rel=1e-5)
    assert curvature.rise(ends[1]) == pytest.approx(expected, rel=1e-5) and curvature.rise(base) == 0.0
    assert curvature.rows == 10, "filler rows do not count"


def test_it_is_the_form_of_the_fisher_matrix_written_out():
    model, task, batch = Toy(), Classify("original", ("a", "b", "c")), toy_batch(rows=7, filler=2)
    base, tuned = toy_params(0), toy_params(1)
    flat, unravel = ravel_pytree(base)
    matrix = np.zeros((len(flat), len(flat)))
    for row in range(5):
        one = {name: value[row : row + 1] for name, value in batch.items()}

        def log_p(flat, one=one):
            return jax.nn.log_softmax(model.apply(unravel(flat), one)["logits"]["original"][0])

        slopes, p = np.asarray(jax.jacrev(log_p)(flat), np.float64), np.exp(np.asarray(log_p(flat)))
        matrix += np.einsum("c,ci,cj->ij", p, slopes, slopes) / 5
    change = np.asarray(ravel_pytree(tuned)[0] - flat, np.float64)
    expected = 0.5 * change @ matrix @ change
    assert Curvature(model, task, base, [batch]).rise(tuned) == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(0.5 * np.sum(np.diag(matrix) * change**2), rel=0.1), (
        "the diagonal is another thing"
    )
