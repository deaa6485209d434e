"""RecAdam: steps against the optimizer written out in numpy."""

import jax
import numpy as np
import optax
import pytest

from fft.core.tree import flatten
from fft.experiment import Optim
from fft.methods import Full, Layerwise, LoRA, RecAdam, chain
from fft.training.optim import multipliers, schedule
from fft.training.step import make_train_step
from tests.helpers.methods import MODEL, step_batch, stepper, task
from tests.helpers.toy import max_difference, toy_params

RUN, STEPS, LR, DECAY = 10, 6, 0.05, 0.1
METHOD = RecAdam(strength=8.0, middle=0.5, width=0.2)


@pytest.fixture
def base():
    return toy_params(heads={"original": 3, "new": 3})


def gradient(theta, batch):
    def loss(params):
        logits = MODEL.apply(params, batch)["logits"]["new"]
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        return (nll * batch.weight).sum() / batch.weight.sum()

    return {path: np.asarray(leaf, np.float64) for path, leaf in flatten(jax.grad(loss)(theta)).items()}


@pytest.mark.parametrize("method", [METHOD, chain(Layerwise(decay=0.5), METHOD)])
def test_six_steps_by_hand(base, method):
    """Adam's moments, its update times λ, and the pull times the leaf's own rate, in float64."""
    step, state, aux, multiplier = stepper(method, base, lr=LR, weight_decay=DECAY, clip=0.0, steps=RUN)
    rate = schedule(Optim(lr=LR, warmup=0.0), RUN)
    theta = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(base).items()}
    anchors, moments = dict(theta), {path: (0.0, 0.0) for path in theta}
    for t in range(STEPS):
        batch = step_batch(method, t)
        slopes = gradient(state.theta, jax.tree.map(lambda x: x[0], batch["new"]))
        share = 1 / (1 + np.exp(-(t - 0.5 * RUN) / (0.2 * RUN)))
        for path, g in slopes.items():
            if path.startswith("heads/original/"):
                continue
            m, v = moments[path]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            moments[path] = m, v
            lr, old = float(rate(t)) * multiplier[path], theta[path]
            adam = (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
            update = -lr * (adam + (DECAY * old if old.ndim > 1 else 0.0))
            back = min(1.0, lr * (1 - share) * 8.0) * (old - anchors[path])
            theta[path] = old + (update if path.startswith("heads/new/") else share * update - back)
        state, _ = step(state, base, aux, batch)
    for path, leaf in flatten(state.theta).items():
        np.testing.assert_allclose(leaf, theta[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_a_strong_pull_ends_at_the_base_and_does_not_overshoot(base):
    held = RecAdam(strength=1e9, middle=1.0, width=1e-3)
    step, state, aux, _ = stepper(held, base, lr=LR)
    for t in range(3):
        state, _ = step(state, base, aux, step_batch(held, t))
    assert max_difference(state.theta["layers"], base["layers"]) == 0
    assert max_difference(state.theta["heads"]["new"], base["heads"]["new"]) > 0.05, "a fresh head is free"


def test_late_in_the_run_it_is_full_fine_tuning(base):
    late = RecAdam(middle=0.0, width=1e-3)
    ended = []
    for method in (late, Full()):
        step, state, aux, _ = stepper(method, base, lr=LR)
        state = state._replace(step=state.step + 5)
        for t in range(2):
            state, _ = step(state, base, aux, step_batch(method, t))
        ended.append(state.theta)
    assert max_difference(*ended) < 1e-6


def test_a_step_without_a_schedule_is_refused(base):
    multiplier = multipliers(METHOD, base, MODEL.depth)
    with pytest.raises(TypeError, match="recadam scales a decay by the learning rate: give make_train_step the sched"):
        make_train_step(MODEL, task(), METHOD, optax.sgd(0.1), multiplier)


def test_a_contract_multiplies_its_pull():
    assert METHOD.adds and not LoRA().adds
