"""Mixout: the weights that a step uses, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.methods import BitFit, Full, Mixout, StepContext
from tests.helpers.methods import context, trained
from tests.helpers.toy import max_difference, toy_params

QUERY = "layers/0/attention/query/kernel"


@pytest.fixture
def base():
    return toy_params(heads={"original": 3, "new": 3})


def mixed(method, base, theta, key):
    now = StepContext(base, method.prepare(context(base), jax.random.key(0)))
    return flatten(method.inject(now, theta, key))


def test_every_weight_of_a_kernel_is_the_base_s_or_compensates_for_it(base):
    """A drawn weight is θ*, another (θ − p θ*) / (1 − p). Biases, scales and heads are θ."""
    method, p = Mixout(probability=0.25), 0.25
    theta = jax.tree.map(lambda x: x + 1.0, base)
    mixture, anchors, values = mixed(method, base, theta, jax.random.key(1)), flatten(base), flatten(theta)
    for path, leaf in mixture.items():
        if path.startswith("heads/") or not path.endswith("/kernel"):
            np.testing.assert_array_equal(leaf, values[path], path)
            continue
        for weight, anchor, value in zip(*(np.ravel(tree[path]) for tree in (mixture, anchors, values)), strict=True):
            assert min(abs(weight - anchor), abs(weight - (value - p * anchor) / (1 - p))) < 1e-6, path


def test_the_mean_over_draws_is_theta_and_p_of_them_are_the_bases(base):
    method, theta = Mixout(probability=0.7), jax.tree.map(lambda x: x + 1.0, base)
    keys = jax.random.split(jax.random.key(5), 4000)
    drawn = np.asarray(jax.vmap(lambda key: mixed(method, base, theta, key)[QUERY])(keys))
    is_base = np.isclose(drawn, np.asarray(flatten(base)[QUERY]), atol=1e-5)
    assert is_base.mean() == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / is_base.size))
    error = drawn.std(0).max() / np.sqrt(len(keys))
    np.testing.assert_allclose(drawn.mean(0), flatten(theta)[QUERY], atol=5 * error)


def test_a_probability_of_0_is_full_fine_tuning_and_another_is_not(base):
    full, none, some = (trained(method, base)[0].theta for method in (Full(), Mixout(probability=0.0), Mixout()))
    assert max_difference(full, none) == 0 and max_difference(full, some) > 1e-3
    with pytest.raises(InputError, match=r"mixout\.probability must be between 0 and 0\.99"):
        Mixout(probability=1.0)


def test_steps_draw_anew(base):
    method, theta = Mixout(), jax.tree.map(lambda x: x + 1.0, base)
    first, second = (mixed(method, base, theta, jax.random.key(seed))[QUERY] for seed in (1, 2))
    assert float(jnp.max(jnp.abs(first - second))) > 0


def test_without_a_trained_kernel_it_is_rejected(base):
    with pytest.raises(InputError, match="mixout: no kernel of the base is trained"):
        Mixout().prepare(context(base, BitFit() + Mixout()), jax.random.key(0))
