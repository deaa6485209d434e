"""The Fisher information of a task with a target for every token, against a loop over rows and labelings."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.fisher.diagonal import diagonal_fisher
from tests.helpers.per_example import KEY_BIAS
from tests.helpers.tagging import Tag, tiny_encoder, token_rows

TASK, KEY = Tag("tags", ("a", "b")), jax.random.key(5)
ROWS = token_rows((5, 4, 3, 5), classes=2, filler=1)
REAL = 3


@pytest.fixture(scope="module")
def encoder():
    """(Model, params) with a second head that the task does not read."""
    return tiny_encoder({"tags": 2, "other": 3})


@pytest.fixture(scope="module")
def slope(encoder):
    """(row, targets [T]) -> the gradient of the row's log likelihood in float64, by path."""
    model, params = encoder
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)

        def log_likelihood(params, row, targets):
            states = model.states(params, row, read=("tokens",)).tokens
            log_p = jax.nn.log_softmax(model.readout(params, "tags", states)[0])
            return jnp.sum(row.weight[0] * log_p[jnp.arange(len(targets)), targets]), log_p

        gradient = jax.jit(jax.grad(log_likelihood, has_aux=True))

    def of(row, targets):
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, gradient(wide, row, jnp.asarray(targets)))

    return of


def row_at(at):
    return jax.tree.map(lambda x: x[at : at + 1], ROWS)


def mean(trees):
    return jax.tree.map(lambda *leaves: sum(np.asarray(leaf, np.float64) for leaf in leaves) / REAL, *trees)


def squared(tree, weight=1.0):
    return jax.tree.map(lambda g: weight * np.asarray(g) ** 2, tree)


def added(trees):
    return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def close(got, expected):
    """Every leaf to 1e-5 of its norm, key biases excepted."""
    assert list(flatten(got)) == list(flatten(expected))
    for path, leaf in flatten(expected).items():
        if not path.endswith(KEY_BIAS):
            assert np.linalg.norm(np.asarray(flatten(got)[path]) - leaf) <= 1e-5 * np.linalg.norm(leaf), path


def fisher(encoder, estimator, way, draws=1):
    model, params = encoder
    result = diagonal_fisher(model, TASK, params, [ROWS], KEY, estimator=estimator, way=way, draws=draws, chunk=2)
    assert result.examples == REAL
    for path in ("heads/other/", "pooler/"):
        assert all(not leaf.any() for name, leaf in flatten(result.diagonal).items() if name.startswith(path))
    return result.diagonal


def drawn(encoder, draws):
    """The targets [draws, B, T] that the estimators draw."""
    model, params = encoder
    logits = model.readout(params, "tags", model.states(params, ROWS, read=("tokens",)).tokens)
    keys = [jax.random.split(jax.random.fold_in(KEY, row), draws) for row in range(len(ROWS.row))]
    return [
        [TASK.sample(k, logits[row][None])[0] for row, k in enumerate(of_draw)] for of_draw in zip(*keys, strict=True)
    ]


@pytest.mark.parametrize("way", ["fused", "vmapped"])
def test_exact_is_the_mean_over_all_labelings(encoder, slope, way):
    def of_row(at):
        places, squares = np.flatnonzero(ROWS.weight[at]), []
        for labels in itertools.product(range(2), repeat=len(places)):
            targets = np.zeros(ROWS.ids.shape[1], np.int32)
            targets[places] = labels
            gradient, log_p = slope(row_at(at), targets)
            squares.append(squared(gradient, float(np.exp(log_p[places, labels].sum()))))
        return added(squares)

    close(fisher(encoder, "exact", way), mean([of_row(at) for at in range(REAL)]))


@pytest.mark.parametrize("way", ["fused", "vmapped"])
def test_empirical_squares_the_summed_gradient_of_a_row(encoder, slope, way):
    expected = mean([squared(slope(row_at(at), ROWS.targets[at])[0]) for at in range(REAL)])
    close(fisher(encoder, "empirical", way), expected)


@pytest.mark.parametrize("way", ["fused", "vmapped"])
def test_mc_squares_the_summed_gradient_for_drawn_targets(encoder, slope, way):
    squares = [squared(slope(row_at(at), targets[at])[0], 0.5) for targets in drawn(encoder, 2) for at in range(REAL)]
    close(fisher(encoder, "mc", way, draws=2), mean(squares))


@pytest.mark.filterwarnings("ignore:warning. the batched estimator")
def test_gnb_and_batched_square_the_gradient_of_the_batch(encoder, slope):
    def of_batch(targets):
        return added([slope(row_at(at), targets[at])[0] for at in range(REAL)])

    close(fisher(encoder, "batched", "fused"), mean([squared(of_batch(ROWS.targets), 1 / REAL)]))
    expected = mean([squared(of_batch(targets), 0.5) for targets in drawn(encoder, 2)])
    close(fisher(encoder, "gnb", "fused", draws=2), expected)


def test_too_many_passes_are_refused(encoder):
    model, params = encoder
    many = Tag("tags", tuple(map(str, range(201))))
    with pytest.raises(InputError, match=r"exact would take 1,005 backward passes a batch, .* at each of 5 tokens"):
        diagonal_fisher(model, many, params, [ROWS], KEY, estimator="exact")
