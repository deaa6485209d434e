"""The optimizers: one step of each by hand, their decay, resumed and accumulated steps, and frozen leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.core.tree import flatten
from fft.disk.checkpoint import Checkpoints
from fft.experiment import Data, Experiment, Optim, from_json
from fft.methods import GPM, SI, Freeze, Full, LoRA, StepContext, chain
from fft.run.accept import resolved
from fft.training.optim import multipliers
from fft.training.optimizers import OPTIMIZERS
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers.methods import MODEL, context, step_batch, stepper, task
from tests.helpers.toy import max_difference, toy_batch, toy_params

LR, DECAY = 0.01, 0.1


@pytest.fixture
def base():
    return toy_params(heads={"original": 3, "new": 3})


def updates_by_hand(name, g, old):
    """The first update without decay."""
    if name == "adamw":
        return -LR * g / (np.abs(g) + 1e-8)
    if name == "lion":
        return -LR * np.sign(g)
    if name == "sgd":
        return -LR * g
    rms = np.sqrt(np.mean((g / np.abs(g)) ** 2))  # small leaves are not factored
    return -LR * max(np.sqrt(np.mean(old**2)), 1e-3) * (g / np.abs(g)) / max(1.0, rms)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_by_hand_and_its_decay(base, name):
    """θ − rate · (direction + weight_decay · θ), the decay on leaves of two dimensions alone."""
    step, state, aux, _ = stepper(
        Full(), base, lr=LR, weight_decay=DECAY, clip=0.0, schedule="constant", optimizer=name
    )
    batch = toy_batch(0)

    def loss(params):
        logits = MODEL.apply(params, batch)["logits"]["new"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()

    gradients, leaves = flatten(jax.grad(loss)(base)), flatten(base)
    state, _ = step(state, base, aux, {"new": jax.tree.map(lambda x: x[None], batch)})
    for path, leaf in flatten(state.theta).items():
        if not path.startswith("heads/original"):
            g, old = (np.asarray(tree[path], np.float64) for tree in (gradients, leaves))
            expected = old + updates_by_hand(name, g, old) - (LR * DECAY * old if old.ndim > 1 else 0.0)
            np.testing.assert_allclose(leaf, expected, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_state_goes_on_and_micro_batches_are_one_batch(base, name, tmp_path):
    step, state, aux, _ = stepper(Full(), base, lr=LR, optimizer=name)
    rows = toy_batch(0, rows=8, filler=3)

    def micro(shape):
        return {"new": jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)}

    state, _ = step(state, base, aux, micro((2, 4)))
    _, other, _, _ = stepper(Full(), base, lr=LR, optimizer=name)
    assert max_difference(state.theta, step(other, base, aux, micro((1, 8)))[0].theta) < 1e-5
    Checkpoints(tmp_path).save(1, state, {})
    found = Checkpoints(tmp_path).restore(jax.eval_shape(lambda: state)).tree
    ended = [step(s, base, aux, step_batch(Full(), 1))[0] for s in (found, jax.tree.map(jnp.copy, state))]
    assert max_difference(ended[0].theta, ended[1].theta) == 0
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), ended[0].opt_state, ended[1].opt_state))


@pytest.mark.parametrize("method", [Freeze(blocks=1), chain(Freeze(blocks=1), SI()), chain(Freeze(blocks=1), GPM())])
@pytest.mark.parametrize("tx", [optax.adamw(0.1, weight_decay=0.5), optax.adafactor(0.1, weight_decay_rate=0.1)])
def test_frozen_leaves_stay_under_any_transformation_of_optax(base, method, tx):
    multiplier = multipliers(method, base, MODEL.depth, ("original",))
    aux = method.prepare(context(base, method), jax.random.key(2))
    step = make_train_step(MODEL, task(), method, tx, multiplier, task("original"))
    theta = jax.tree.map(jnp.copy, base)
    state = init_state(theta, method.transform(tx, StepContext(base, aux)), jax.random.key(3))
    for i in range(3):
        state, _ = step(state, base, aux, step_batch(method, i))
    for path, leaf in flatten(state.theta).items():
        assert bool((leaf == flatten(base)[path]).all()) == (multiplier[path] == 0), path


def test_the_default_rate_is_the_methods_on_the_optimizers_scale():
    for name, optimizer in OPTIMIZERS.items():
        for method in (Full(), LoRA()):
            given = Experiment("base", Data("new.csv"), method=method, optim=Optim(optimizer=name))
            assert resolved(given).optim.lr == pytest.approx(method.lr * optimizer.lr_factor)
    asked = dataclasses.replace(given, optim=Optim(lr=0.3, optimizer="sgd"))
    assert resolved(asked).optim.lr == 0.3 and from_json(asked.to_json()) == asked
    written = Experiment("base", Data("new.csv")).to_json()
    assert "optimizer" not in written["optim"], "the hash of an older run is still its hash"
