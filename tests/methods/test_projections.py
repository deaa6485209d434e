"""Methods that constrain the update: against numpy's linear algebra, and over toy runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.methods import GPM, OGD, SI, Freeze, Full, LoRA, Sparse, chain
from tests.helpers import methods as shared
from tests.helpers.methods import MODEL, context, task, trained
from tests.helpers.toy import max_difference, toy_batch, toy_params

ROWS = toy_batch(rows=8, filler=3)  # the rows of the tests' context


@pytest.fixture
def base():
    return toy_params(heads={"original": 3, "new": 3})


def long(tree, paths):
    return np.concatenate([np.ravel(np.asarray(flatten(tree)[path], np.float64)) for path in paths])


def row_of(row):
    return jax.tree.map(lambda values: values[row : row + 1], ROWS)


def slopes(base, paths, rows=5):
    """Return the gradients of the labels' logits [rows, P]."""

    def logit(params, row):
        return MODEL.apply(params, row_of(row))["logits"]["original"][0, int(ROWS.targets[row])]

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
    """⟨∂z_y/∂θ, θ − θ*⟩ is 0 after six steps with momentum and decay; after full fine-tuning it is large."""
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


def test_ogd_drops_spanned_directions_and_notes_their_number(base):
    """Two rows given twice have two directions."""
    notes, twice = [], jax.tree.map(lambda values: values[[0, 1, 0, 1]], ROWS)
    doubled = context(base)._replace(batches=lambda n, size: [twice], note=notes.append)
    aux = OGD(directions=4).prepare(doubled, jax.random.key(0))
    assert {len(leaf) for leaf in jax.tree.leaves(aux)} == {2}
    assert "2 orthonormal directions from 4 original rows" in notes[0]


def test_a_shared_head_is_projected_and_a_fresh_one_is_not(base):
    shared = context(base)._replace(fresh_heads=(), is_trained=lambda path: not path.startswith("heads/new"))
    assert "original" in OGD(directions=2).prepare(shared, jax.random.key(0))["heads"]
    nothing = context(base)._replace(is_trained=lambda path: path.startswith("heads/new"))
    with pytest.raises(InputError, match="no trained parameter influences the original logits"):
        OGD(directions=2).prepare(nothing, jax.random.key(0))


def test_statistics_are_arguments_of_the_compiled_step_and_not_part_of_it(base):
    """Other directions give other updates of the same compiled step: `aux` is not a constant in it."""
    from fft.experiment import Optim
    from fft.training.optim import make_optimizer, multipliers
    from fft.training.state import init_state
    from fft.training.step import make_train_step

    method = OGD(directions=3)
    multiplier = multipliers(method, base, MODEL.depth, ("original",))
    tx = make_optimizer(base, multiplier, Optim(lr=0.05, warmup=0.0), 10)
    step = make_train_step(MODEL, task(), method, tx, multiplier, task("original"))
    batch = {"new": jax.tree.map(lambda x: x[None], toy_batch(7))}
    aux, ended = method.prepare(context(base), jax.random.key(0)), []
    for scale in (1.0, 0.0):
        theta = jax.tree.map(jnp.copy, base)
        directions = jax.tree.map(lambda leaf, scale=scale: scale * leaf, aux)
        ended.append(step(init_state(theta, tx, jax.random.key(0)), base, directions, batch)[0].theta)
    assert max_difference(*ended) > 1e-3


@pytest.mark.parametrize("method", [OGD(), GPM(), Sparse()])
def test_the_base_s_own_parameters_are_needed(method):
    with pytest.raises(InputError, match=f"lora and {method.name} each set what is trained"):
        chain(LoRA(), method)


def test_one_method_constrains_the_updates_and_observers_see_the_result(base):
    with pytest.raises(InputError, match="ogd and gpm each constrain the updates"):
        chain(OGD(), GPM())
    sums = [trained(method, base)[0].opt_state.omega for method in (SI() + OGD(), OGD() + SI())]
    assert max_difference(*sums) == 0


# --- gpm ---


def rows_of_rank(rows):
    """Return the context's rows, of which only the first `rows` have weight."""
    return ROWS._replace(weight=np.float32(np.arange(8) < rows))


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_gpm_protects_the_first_singular_vectors_of_a_layer_s_inputs(base, threshold):
    """Against numpy's SVD of the inputs (x, 1) themselves, and the smallest k by a loop."""
    aux = GPM(threshold=threshold).prepare(context(base), jax.random.key(0))
    leaf = {path: np.asarray(value, np.float64) for path, value in flatten(base).items()}
    x = ROWS.x[:5] * leaf["embed/scale"]
    for i in range(2):
        layer = f"layers/{i}/attention/query"
        left, values, _ = np.linalg.svd(np.concatenate([x, np.ones((5, 1))], axis=1).T)
        k = next(k for k in range(1, 6) if np.sum(values[:k] ** 2) >= threshold * np.sum(values**2))
        basis = np.asarray(flatten(aux["inputs"])[layer], np.float64)
        assert basis.shape == (5, k)
        np.testing.assert_allclose(basis @ basis.T, left[:, :k] @ left[:, :k].T, atol=1e-5)
        x = np.tanh(x @ leaf[f"{layer}/kernel"] + leaf[f"{layer}/bias"])
    assert set(flatten(aux["inputs"])) == {"layers/0/attention/query", "layers/1/attention/query"}
    keep = {path: float(value) for path, value in flatten(aux["keep"]).items()}
    assert keep == {"embed/scale": 0.0, "heads/new/out/bias": 1.0, "heads/new/out/kernel": 1.0}


@pytest.mark.parametrize("frozen", [None, "layers/./.*/bias", "layers/0/.*", "layers/0/.*/kernel"])
def test_adamw_under_gpm_leaves_the_answers_of_the_protected_rows_whatever_the_steps(base, frozen, monkeypatch):
    """With the full span of three rows protected, exactly and not only to first order: a layer's outputs do not change,
    and so neither do the inputs of the next.
    """
    three = rows_of_rank(3)

    def of_context(*args, **kwargs):
        return three if "rows" in kwargs else toy_batch(*args, **kwargs)

    monkeypatch.setattr(shared, "toy_batch", of_context)
    method = GPM(threshold=1.0) if frozen is None else Freeze(pattern=frozen) + GPM(threshold=1.0)
    state, _, _ = trained(method, base, steps=6, weight_decay=0.1)
    before, after = (MODEL.apply(params, three)["logits"]["original"][:3] for params in (base, state.theta))
    np.testing.assert_allclose(after, before, atol=2e-5)
    others = [MODEL.apply(params, three)["logits"]["original"][3:] for params in (base, state.theta)]
    assert max_difference(*others) > 5e-3, "answers of other rows are free"
    assert bool((state.theta["embed"]["scale"] == base["embed"]["scale"]).all())
    assert max_difference(state.theta["heads"]["new"], base["heads"]["new"]) > 0.05


def test_the_inputs_are_those_of_every_dense_layer_of_a_real_model(tiny):
    from fft import models
    from fft.models.probes.inputs import dense_inputs, second_moments

    checkpoint = models.load(tiny / "bert")
    ids = np.arange(12, dtype=np.int32).reshape(2, 6) % 5
    mask, zeros = np.int32([[1] * 6, [1, 1, 1, 1, 0, 0]]), np.zeros(2, np.int32)
    batch = Batch(ids, mask, 0 * ids, targets=zeros, weight=np.ones(2, np.float32), row=zeros)
    inputs = dense_inputs(lambda: checkpoint.model.apply(checkpoint.params, batch))
    outputs = checkpoint.model.apply(checkpoint.params, batch)
    assert {f"{path}/kernel" for path in inputs} == {
        path for path in flatten(checkpoint.params) if path.endswith("/kernel")
    }
    np.testing.assert_allclose(
        np.tanh(inputs["pooler"] @ checkpoint.params["pooler"]["kernel"] + checkpoint.params["pooler"]["bias"]),
        outputs["pooled"],
        atol=1e-5,
    )
    x = np.asarray(inputs["layers/0/mlp/up"], np.float64)
    real = np.concatenate([x[0], x[1, :4]])
    np.testing.assert_allclose(
        second_moments(inputs, batch)["layers/0/mlp/up"][:-1, :-1], real.T @ real, rtol=1e-4, atol=1e-4
    )
    (first,) = {second_moments(inputs, batch)[path][-1, -1].item() for path in ("pooler", "layers/1/mlp/up")}
    assert first == 2.0, "the last block reads only the first token"


def test_a_model_without_dense_layers_is_refused(base):
    with pytest.raises(InputError, match="no trained dense layer reads original rows"):
        GPM().prepare(context(base)._replace(model=MODEL), jax.random.key(0))


# --- sparse ---


def test_sparse_trains_the_share_with_the_smallest_fisher_and_nothing_else(base):
    """The exact Fisher information by a loop over rows and labels, sorted; then bits after six steps of AdamW."""
    method = Sparse(share=0.3, estimator="exact", way="vmapped")
    fisher = {path: np.zeros(leaf.shape) for path, leaf in flatten(base).items()}
    for row in range(5):
        batch = row_of(row)
        logits = np.asarray(MODEL.apply(base, batch)["logits"]["original"][0], np.float64)
        for label, p in enumerate(np.exp(logits) / np.sum(np.exp(logits))):

            def nll(params, batch=batch, label=label):
                return -jax.nn.log_softmax(MODEL.apply(params, batch)["logits"]["original"][0])[label]

            for path, slope in flatten(jax.grad(nll)(base)).items():
                fisher[path] += p * np.asarray(slope, np.float64) ** 2 / 5
    notes = []
    aux = flatten(method.prepare(context(base)._replace(note=notes.append), jax.random.key(0)))
    state, _, _ = trained(method, base, steps=6, weight_decay=0.1)
    for path, mask in aux.items():
        most = np.sort(np.ravel(fisher[path]))[int(np.ceil(0.3 * mask.size)) - 1]
        assert np.array_equal(np.asarray(mask) > 0, fisher[path] <= most * (1 + 1e-6)), path
        moved = np.asarray(flatten(state.theta)[path] != flatten(base)[path])
        assert np.array_equal(moved, np.asarray(mask) > 0), path
    assert not any(path.startswith("heads/") for path in aux)
    assert max_difference(state.theta["heads"]["new"], base["heads"]["new"]) > 0.05
    assert f"{sum(int(mask.sum()) for mask in aux.values())} of 44 parameters are trained" in notes[-1]
    with pytest.raises(InputError, match=r"--sparse\.share must be a positive number of at most 1"):
        Sparse(share=0.0)
    with pytest.raises(InputError, match=r"sparse\.samples is a setting of the run's own Fisher pass"):
        Sparse(fisher="folder", samples=3)
