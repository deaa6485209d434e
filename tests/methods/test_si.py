"""Synaptic intelligence: the path integral against a loop and the fall of the loss, then from run to run."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.commands.failures import UNFORESEEN
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.disk.artefact import load_artefact
from fft.disk.checkpoint import Checkpoints
from fft.methods import SI, LoRA, StepContext, chain
from fft.methods.si import PathIntegral, importance
from fft.run.restored import restored, trainable_of
from tests.helpers.tiny_runs import at_event, fail, outcome, record, tune
from tests.helpers.toy import Toy, toy_batch, toy_params

FLAGS = ("--steps", 8, "--eval-every", 4, "--batch-size", 16, "--lr", 1e-2, "--keep", "latest", "--tolerance", 1)
FLAGS = (*FLAGS, "--checkpoints", "keep")  # so that the optimizer's state can be compared


def saved(run):
    """Return the last saved step of a run with --checkpoints keep."""
    result = restored(run)
    like = jax.eval_shape(trainable_of(result.experiment, result.checkpoint).init)
    return Checkpoints(run / "checkpoints").restore(like)


def integral(state):
    (state,) = (s for s in jax.tree.leaves(state, is_leaf=is_integral) if is_integral(s))
    return state.omega


def is_integral(state):
    return isinstance(state, PathIntegral)


def test_omega_is_the_fall_of_the_loss_along_a_smooth_path():
    """Σ ω over all parameters → L(start) − L(end) as the steps shrink, for any optimizer; here momentum."""
    params, batch, tx = toy_params(), toy_batch(), SI().transform(optax.sgd(1e-3, momentum=0.9), StepContext({}))

    @jax.jit
    def loss(params):
        logits = Toy().apply(params, batch)["logits"]["original"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()

    state, first, step = tx.init(params), float(loss(params)), jax.jit(tx.update)
    for _ in range(150):
        updates, state = step(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    fall = first - float(loss(params))
    total = sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(integral(state)))
    assert fall > 0.05 and total == pytest.approx(fall, rel=0.02)


def test_omega_excludes_its_own_pull_and_frozen_leaves():
    """Three SGD steps by hand in float64; the optimizer's gradient includes the pull, ω does not."""
    method, rng = SI(strength=2.0, after="a run"), np.random.default_rng(0)
    weights, anchor, theta = rng.random(3), rng.normal(size=3), rng.normal(size=3)
    aux = {"omega": {"a": jnp.float32(weights)}, "anchor": {"a": jnp.float32(anchor)}}
    tx = method.transform(optax.sgd(0.1), StepContext({}, aux, is_trained=lambda path: path != "c"))
    params = {"a": jnp.float32(theta), "b": jnp.ones(2), "c": jnp.ones(2)}
    state, expected, free = tx.init(params), np.zeros(3), np.zeros(2)
    for _ in range(3):
        task, other = rng.normal(size=3), rng.normal(size=2)
        gradient = task + 2 * 2.0 * weights * (theta - anchor)
        expected, free = expected + task * 0.1 * gradient, free + 0.1 * other**2
        theta = theta - 0.1 * gradient
        updates, state = tx.update(
            {"a": jnp.float32(gradient), "b": jnp.float32(other), "c": jnp.ones(2)}, state, params
        )
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.omega["a"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.omega["b"], free, rtol=1e-5)
    assert state.omega["c"].tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Two runs, the second from the model of the first."""
    folder = tmp_path_factory.mktemp("si")
    first = tune(tiny, folder / "a", *FLAGS, "--method", "si", original=None)
    assert first.code == 0, first.err
    after = ("--method", "full+si", "--si.after", folder / "a", "--si.strength", 30)
    second = tune(
        folder, folder / "b", *FLAGS, *after, model="a/model", new=tiny / "new.csv", original=tiny / "new.csv"
    )
    assert second.code in (0, 1, 4), second.err
    return folder


def test_the_penalty_of_the_next_run_is_the_importance_in_the_first(runs, tiny):
    result = restored(runs / "a")
    start, end = flatten(result.checkpoint.params), flatten(result.params)
    omega = load_artefact(runs / "b" / "prepared")[0]["si"]["omega"]
    assert sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(omega)) > 0
    for path, work in flatten(integral(saved(runs / "a").tree.opt_state)).items():
        moved = np.asarray(end[path], np.float64) - np.asarray(start[path], np.float64)
        expected = np.maximum(np.asarray(work, np.float64), 0) / (moved**2 + 1e-3)
        np.testing.assert_allclose(flatten(omega)[path], expected, rtol=1e-4, atol=1e-9, err_msg=path)
    assert "new_2" not in omega["heads"], "a fresh head has no earlier value"
    assert any("importance of" in note for note in record(runs / "b")["notes"])
    assert any("collects for the next one" in note for note in record(runs / "a")["notes"])


def test_importance_adds_up_over_the_runs(runs, tiny):
    result = restored(runs / "b")
    earlier, total = (
        load_artefact(runs / "b" / "prepared")[0]["si"]["omega"],
        importance(runs / "b", result.params, 1e-3, restored),
    )
    own, start, end = (
        flatten(tree) for tree in (integral(saved(runs / "b").tree.opt_state), result.checkpoint.params, result.params)
    )
    path = "layers/1/mlp/up/kernel"
    expected = np.maximum(own[path], 0) / ((end[path] - start[path]) ** 2 + 1e-3) + flatten(earlier)[path]
    np.testing.assert_allclose(flatten(total)[path], expected, rtol=1e-5)


@pytest.mark.parametrize("way", ["tidied", "older", "tidied older"])
@pytest.mark.parametrize("run", ["a", "b"])
def test_the_importance_of_a_run_needs_no_optimizer_state(runs, tmp_path, run, way):
    """An older run folder has ω only in its saved steps, from which it is not removed."""
    expected = importance(runs / run, restored(runs / run).params, 1e-3, restored)
    folder = shutil.copytree(runs / run, tmp_path / "run")
    if "older" in way:
        shutil.rmtree(folder / "left")
        Checkpoints(folder / "checkpoints").save(*saved(folder))
    if "tidied" in way:
        Checkpoints(folder / "checkpoints").reduce({8})
        assert len(list((folder / "checkpoints").iterdir())) == 1
    assert not list(max((folder / "checkpoints").iterdir()).glob("rest"))
    result = flatten(importance(folder, restored(folder).params, 1e-3, restored))
    assert all(np.array_equal(result[path], leaf) for path, leaf in flatten(expected).items())


def test_omega_survives_an_interruption(runs, tiny, tmp_path):
    flags = (*FLAGS, "--method", "si")
    with at_event("score", 4, fail):
        assert tune(tiny, tmp_path / "a", *flags, original=None).code == UNFORESEEN
    assert tune(tiny, tmp_path / "a", *flags, original=None).code == 0
    assert outcome(tmp_path / "a") == outcome(runs / "a")
    resumed, whole = (flatten(integral(saved(out / "a").tree.opt_state)) for out in (tmp_path, runs))
    assert all(np.array_equal(resumed[path], whole[path]) for path in resumed)


def test_a_run_without_omega_is_rejected(runs, tiny, tmp_path):
    def again(*flags, model=runs / "a" / "model"):
        return tune(tiny, tmp_path / "run", *FLAGS, "--method", "si", *flags, model=model, original=None)

    for answer, message in (
        (again("--si.after", runs / "a", model=tiny / "bert"), "--model is not the model of that run"),
        (again("--si.after", tmp_path), "expected the folder of a finished run"),
        (again("--si.strength", 3), "give --si.after RUN"),
    ):
        assert answer.code == 2 and message in answer.err, answer.err
    with pytest.raises(InputError, match="lora and si each set what is trained"):
        chain(LoRA(), SI())
    assert not (tmp_path / "run").exists()
