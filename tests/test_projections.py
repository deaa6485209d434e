"""Methods that keep the update within bounds: against numpy's linear algebra, and over whole toy runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.errors import InputError
from fft.methods import OGD, Freeze, Full, LoRA, chain
from fft.paths import flatten
from tests.test_methods import MODEL, context, task, trained
from tests.toy import max_difference, toy_batch, toy_params

ROWS = toy_batch(rows=8, filler=3)  # what the context of the tests gives


@pytest.fixture
def base():
    return toy_params(heads={"original": 3, "new": 3})


def long(tree, paths):
    return np.concatenate([np.ravel(np.asarray(flatten(tree)[path], np.float64)) for path in paths])


def slopes(base, paths, rows=5):
    """The gradients of the labels' logits [rows, P], a row at a time."""

    def logit(params, row):
        one = {"x": ROWS["x"][row : row + 1]}
        return MODEL.apply(params, one)["logits"]["original"][0, int(ROWS["label"][row])]

    return np.stack([long(jax.grad(logit)(base, row), paths) for row in range(rows)])


def test_the_directions_of_ogd_are_an_orthonormal_basis_of_the_gradients(base):
    """Against the QR decomposition of the gradients in float64, as projectors."""
    method = OGD(directions=4)
    aux = method.prepare(context(base), jax.random.key(0))
    assert set(flatten(aux)) == {path for path in flatten(base) if not path.startswith("heads/")}
    basis = np.stack([long(jax.tree.map(lambda v, k=k: v[k], aux), flatten(aux)) for k in range(4)])
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-6)
    q, _ = np.linalg.qr(slopes(base, flatten(aux), rows=4).T)
    np.testing.assert_allclose(basis.T @ basis, q @ q.T, atol=1e-5)


@pytest.mark.parametrize(
    "method", [OGD(directions=5), Freeze(blocks=1) + OGD(directions=5), OGD(directions=5) + Full()]
)
def test_adamw_under_ogd_leaves_the_logits_to_first_order(method, base):
    """⟨∂z_y/∂θ, θ − θ*⟩ after six steps with momentum and decay, where full fine-tuning goes a long way along it."""
    state, _, multiplier = trained(method, base, steps=6, weight_decay=0.1)
    free, _, _ = trained(Full(), base, steps=6, weight_decay=0.1)
    paths = [path for path, value in multiplier.items() if value and not path.startswith("heads/")]
    directions, start = slopes(base, paths), long(base, paths)
    along = np.abs(directions @ (long(state.theta, paths) - start))
    assert along.max() < 1e-4 and np.abs(directions @ (long(free.theta, paths) - start)).max() > 0.05
    assert np.linalg.norm(long(state.theta, paths) - start) > 0.1
    for path, value in multiplier.items():
        if value == 0:
            assert bool((flatten(state.theta)[path] == flatten(base)[path]).all()), path


def test_ogd_drops_what_is_spanned_and_says_how_many_are_left(base):
    """Two rows twice: two directions. And a regression task has one output whatever the target."""
    notes, twice = [], {name: value[[0, 1, 0, 1]] for name, value in ROWS.items()}
    doubled = context(base)._replace(batches=lambda n, size: [twice], note=notes.append)
    aux = OGD(directions=4).prepare(doubled, jax.random.key(0))
    assert {len(leaf) for leaf in jax.tree.leaves(aux)} == {2}
    assert "2 orthonormal directions from 4 original rows" in notes[0]


def test_a_shared_head_is_projected_and_a_fresh_one_is_not(base):
    shared = context(base)._replace(fresh_heads=(), is_trained=lambda path: not path.startswith("heads/new"))
    assert "original" in OGD(directions=2).prepare(shared, jax.random.key(0))["heads"]
    nothing = context(base)._replace(is_trained=lambda path: path.startswith("heads/new"))
    with pytest.raises(InputError, match="no parameter that is trained has a say"):
        OGD(directions=2).prepare(nothing, jax.random.key(0))


def test_statistics_are_arguments_of_the_compiled_step_and_not_part_of_it(base):
    """Other directions, other updates, no new compilation: nothing of `aux` was baked in."""
    from fft.experiment import Optim
    from fft.optim import make_optimizer, multipliers
    from fft.train import init_state, make_train_step

    method = OGD(directions=3)
    multiplier = multipliers(method, base, MODEL.depth, ("original",))
    tx = make_optimizer(base, multiplier, Optim(lr=0.05, warmup=0.0), 10)
    step = make_train_step(MODEL, task(), method, tx, multiplier, task("original"))
    batch = {"new": {k: v[None] for k, v in toy_batch(7).items()}}
    aux, ended = method.prepare(context(base), jax.random.key(0)), []
    for scale in (1.0, 0.0):
        theta = jax.tree.map(jnp.copy, base)
        directions = jax.tree.map(lambda leaf, scale=scale: scale * leaf, aux)
        ended.append(step(init_state(theta, tx, jax.random.key(0)), base, directions, batch)[0].theta)
    assert max_difference(*ended) > 1e-3


@pytest.mark.parametrize("method", [OGD()])
def test_the_base_s_own_parameters_are_needed(method):
    with pytest.raises(InputError, match=f"{method.name} works on the base's own parameters, and lora"):
        chain(LoRA(), method)
