"""The Fisher pass against closed forms, plain float64 loops and its own definition."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import weighted_sum
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import flatten
from fft.fisher.diagonal import diagonal_fisher, relative_error
from fft.tasks.classify import Classify
from fft.tasks.regress import Regress
from tests.helpers.toy import Toy, toy_batch, toy_params

MODEL = Toy()
TASK = Classify(name="original", labels=("a", "b", "c"))


def probabilities(params, batch):
    return np.asarray(jax.nn.softmax(MODEL.apply(params, batch)["logits"]["original"]), np.float64)


def fisher(batches, params, task=TASK, seed=0, **settings):
    return diagonal_fisher(MODEL, task, params, batches, jax.random.key(seed), way="vmapped", **settings)


def loop(params, batch, label_weights):
    """Σ_b Σ_c w[b, c] (∂ nll_c / ∂θ)² by one float64 gradient after another."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), params)
        total = {p: np.zeros(x.shape) for p, x in flatten(params).items()}
        for b in range(len(batch.targets)):
            row = batch._replace(x=np.asarray(batch.x[b : b + 1], np.float64))
            for c in range(label_weights.shape[1]):

                def nll(params, row=row, c=c):
                    return -jax.nn.log_softmax(MODEL.apply(params, row)["logits"]["original"])[0, c]

                for path, g in flatten(jax.grad(nll)(params)).items():
                    total[path] += label_weights[b, c] * np.asarray(g) ** 2
        return {path: value / len(batch.targets) for path, value in total.items()}


def assert_leaves_close(tree, expected, tolerance=1e-5):
    for path, leaf in flatten(tree).items():
        norm = np.linalg.norm(expected[path])
        assert np.linalg.norm(np.asarray(leaf) - expected[path]) <= tolerance * max(norm, 1e-12), path


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_exact_equals_the_definition(chunk):
    params, batch = toy_params(), toy_batch(rows=8)
    assert_leaves_close(
        fisher([batch], params, estimator="exact", chunk=chunk).diagonal,
        loop(params, batch, probabilities(params, batch)),
    )


def test_exact_of_logistic_regression_is_the_closed_form():
    """For logits x·W + b the Fisher of W[i, c] is the mean of x_i² p_c (1 − p_c), of b[c] that of p_c (1 − p_c)."""
    params, batch = toy_params(), toy_batch(rows=16)
    out = fisher([batch], params, estimator="exact", where=lambda p: p.startswith("heads/")).diagonal
    x = np.asarray(MODEL.apply(params, batch)["pooled"], np.float64)
    p = probabilities(params, batch)
    variance = p * (1 - p)
    head = out["heads"]["original"]["out"]
    np.testing.assert_allclose(head["kernel"], (x**2).T @ variance / 16, rtol=1e-5)
    np.testing.assert_allclose(head["bias"], variance.mean(0), rtol=1e-5)


def test_empirical_uses_the_labels_of_the_data():
    params, batch = toy_params(), toy_batch(rows=8)
    assert_leaves_close(
        fisher([batch], params, estimator="empirical").diagonal, loop(params, batch, np.eye(3)[batch.targets])
    )


@pytest.mark.parametrize("estimator", ["mc", "gnb"])
def test_mc_and_gnb_are_unbiased(estimator):
    """The mean over 4,000 draws lies within 5 standard errors of exact, entry by entry."""
    params, batch = toy_params(), toy_batch(rows=4, filler=1)
    exact = flatten(fisher([batch], params, estimator="exact").diagonal)
    runs = [flatten(fisher([batch], params, seed=s, estimator=estimator, draws=400).diagonal) for s in range(10)]
    for path, value in exact.items():
        drawn = np.stack([run[path] for run in runs])
        error = drawn.std(0, ddof=1) / np.sqrt(len(runs))
        assert (np.abs(drawn.mean(0) - value) <= 5 * error + 1e-7).all(), path


def test_batched_squares_the_mean_of_a_batch_and_warns():
    params, batch = toy_params(), toy_batch(rows=6, filler=2)

    def mean_nll(params):
        terms = TASK.terms(outputs_of(MODEL, params, batch), batch)
        return weighted_sum(terms, batch.weight) / jnp.sum(batch.weight)

    with pytest.warns(UserWarning, match="its scale shrinks with the batch"):
        result = fisher([batch, batch], params, estimator="batched").diagonal
    assert_leaves_close(result, {p: np.asarray(g) ** 2 for p, g in flatten(jax.grad(mean_nll)(params)).items()})


def test_mc_does_not_depend_on_batching_or_chunks():
    params, batch = toy_params(), toy_batch(rows=8)
    halves = [jax.tree.map(lambda v, i=i: v[i : i + 4], batch) for i in (0, 4)]
    whole = flatten(fisher([batch], params, draws=2).diagonal)
    for batches, chunk in ((halves, 1), (halves, 4), ([batch], 5)):
        assert_leaves_close(fisher(batches, params, draws=2, chunk=chunk).diagonal, whole, 1e-6)


def test_padding_rows_do_not_count():
    params, batch = toy_params(), toy_batch(rows=8, filler=3)
    real = jax.tree.map(lambda v: v[:5], batch)
    padded = fisher([batch], params, estimator="exact", chunk=3)
    assert padded.examples == 5
    assert_leaves_close(padded.diagonal, flatten(fisher([real], params, estimator="exact").diagonal), 1e-6)


def test_regression_is_gauss_newton_over_sigma_squared():
    """(y − f)²/2σ²: the Fisher is (∂f/∂θ)²/σ²."""
    sigma = 0.5
    params, batch = toy_params(heads={"original": 1}), toy_batch(rows=6)
    batch = batch._replace(targets=batch.x[:, 0])
    out = fisher([batch], params, Regress(name="original", sigma=sigma), estimator="exact").diagonal
    expected = {p: np.zeros(x.shape) for p, x in flatten(params).items()}
    for b in range(6):
        row = batch._replace(x=batch.x[b : b + 1])
        g = jax.grad(lambda p, row=row: MODEL.apply(p, row)["logits"]["original"][0, 0])(params)
        for path, value in flatten(g).items():
            expected[path] += np.asarray(value, np.float64) ** 2 / sigma**2 / 6
    assert_leaves_close(out, expected)


def test_a_linear_model_with_gaussian_noise_has_the_closed_form():
    """For y ~ N(w·z, σ²) the Fisher of w is mean z² / σ², of the intercept 1 / σ²; the labels play no part."""
    params, batch = toy_params(heads={"original": 1}), toy_batch(rows=16, filler=2)
    result = fisher([batch], params, Regress("original", sigma=0.3), estimator="exact")
    out = result.diagonal["heads"]["original"]["out"]
    z = np.asarray(MODEL.apply(params, batch)["pooled"], np.float64)[:14]
    np.testing.assert_allclose(out["kernel"][:, 0], (z**2).mean(0) / 0.09, rtol=1e-5)
    np.testing.assert_allclose(out["bias"], [1 / 0.09], rtol=1e-5)


def three_batches():
    return [toy_batch(seed, rows=8, filler=seed) for seed in range(3)]


def test_a_pass_resumes_after_any_batch_to_the_same_bits():
    kept = []

    def keep(running):
        kept.append(running._replace(total=jax.tree.map(jnp.copy, running.total)))

    whole = fisher(three_batches(), toy_params(), draws=2, watch=keep)
    assert [running.examples for running in kept] == [8, 15, 21]
    for running in kept:
        start = running._replace(total=jax.tree.map(jnp.copy, running.total))
        again = fisher(three_batches(), toy_params(), draws=2, start=start)
        assert again[1:5] == whole[1:5]
        assert_leaves_close(again.diagonal, flatten(whole.diagonal), 0)


def test_a_pass_stops_when_its_trace_has_converged():
    batches = [toy_batch(seed, rows=8) for seed in range(40)]
    traces = []
    messages = []
    settings = {"estimator": "exact", "converged": 0.1, "say": messages.append}
    result = fisher(batches, toy_params(), **settings, watch=lambda running: traces.append(running.traces))
    assert messages[0].startswith(f"converged after {result.examples} rows")
    half_width = 1.96 * np.std(traces[-1], ddof=1) / np.sqrt(len(traces[-1]))
    assert 8 <= len(traces) < 40 and result.examples == 8 * len(traces)
    assert half_width <= 0.1 * np.mean(traces[-1]) and relative_error(traces[-2]) > 0.1
    assert result.trace_error == pytest.approx(half_width / np.mean(traces[-1]))
    assert result.trace == pytest.approx(np.mean(traces[-1]), rel=1e-5)
    assert fisher(batches, toy_params(), estimator="exact").examples == 320


def test_only_the_selected_leaves():
    out = fisher([toy_batch()], toy_params(), where=lambda p: p.endswith("kernel") and p.startswith("layers/1"))
    assert list(flatten(out.diagonal)) == ["layers/1/attention/query/kernel"]


def test_no_examples_and_unknown_estimators_are_refused():
    with pytest.raises(InputError, match="at least one example"):
        fisher([], toy_params())
    with pytest.raises(InputError, match="known are exact, mc, empirical"):
        fisher([toy_batch()], toy_params(), estimator="emprical")


def test_exact_of_very_many_outputs_is_refused_with_its_cost():
    many = SimpleNamespace(name="words", outputs=50_000, enumerable=True)
    with pytest.raises(InputError, match=r"exact would take 50,000 backward passes a batch.*use mc, which is unbiased"):
        fisher([toy_batch()], toy_params(), many, estimator="exact")


def test_a_gradient_that_is_not_finite_is_named_by_row_and_leaf():
    batch = toy_batch(rows=8)
    batch.x[5] = np.nan
    with pytest.raises(InputError, match=r"gradient of row 5 .* at embed/scale"):
        fisher([toy_batch(1), batch], toy_params())
    batch = batch._replace(row=np.arange(100, 108, dtype=np.int32))
    with pytest.raises(InputError, match="gradient of row 105"):
        fisher([batch], toy_params())
    params = toy_params()
    params["layers"]["1"]["attention"]["query"]["bias"] = jnp.full(4, jnp.nan)
    with pytest.raises(InputError, match="gradient of row 0 ov"):
        fisher([toy_batch()], params)
