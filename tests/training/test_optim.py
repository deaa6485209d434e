import numpy as np
import pytest

from fft.core.tree import flatten
from fft.experiment import Optim
from fft.training.optim import make_optimizer, schedule
from tests.helpers.toy import toy_params


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_schedules_by_hand(name):
    """100 steps, 10 of warm-up: step i of the warm-up has lr·(i+1)/10, then the decay over the remaining 90."""
    rate = schedule(Optim(lr=2.0, warmup=0.1, schedule=name), 100)
    rise = [2.0 * (i + 1) / 10 for i in range(10)]
    left = np.arange(90) / 90
    after = {"linear": 2 * (1 - left), "cosine": 1 + np.cos(np.pi * left), "constant": np.full(90, 2.0)}[name]
    np.testing.assert_allclose([float(rate(i)) for i in range(100)], [*rise, *after], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_runs_have_a_positive_rate_at_every_step(steps):
    rate = schedule(Optim(lr=1.0, warmup=0.5), steps)
    assert all(float(rate(i)) > 0 for i in range(steps))


def test_equal_settings_are_one_optimizer_so_that_runs_share_its_program():
    base = toy_params()
    rates = dict.fromkeys(flatten(base), 1.0)
    one, other = (make_optimizer(base, dict(rates), Optim(lr=0.1), 5) for _ in range(2))
    assert one is other and make_optimizer(base, rates, Optim(lr=0.1), 6) is not one
