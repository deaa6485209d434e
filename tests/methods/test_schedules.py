"""Methods that unfreeze leaves at later steps: step by step, and over a saved and restored state."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.disk.checkpoint import Checkpoints
from fft.methods import GPM, LPFT, OGD, SI, Full, Layerwise, LoRA, StepContext, Unfreeze, chain
from tests.helpers.methods import context, step_batch, stepper
from tests.helpers.toy import max_difference, toy_params


@pytest.fixture
def base():
    return toy_params(heads={"original": 3, "new": 3})


TURNS = {"heads/new": 0, "layers/1": 2, "layers/0": 4, "embed": 6}
CASES = {
    "unfreeze": (Unfreeze(every=2), TURNS),
    "unfreeze, half of ten steps": (Unfreeze(), {"heads/new": 0, "layers/1": 1, "layers/0": 2, "embed": 3}),
    "unfreeze+layerwise": (Unfreeze(every=2) + Layerwise(), TURNS),
    "lora+unfreeze": (
        LoRA(targets="query") + Unfreeze(every=2),
        {name: TURNS[name] for name in TURNS if name != "embed"},
    ),
    "lpft": (LPFT(share=0.35), {"heads/new": 0, "layers/1": 4, "layers/0": 4, "embed": 4}),
    "lora+lpft": (LoRA(targets="query") + LPFT(share=0.5), {"heads/new": 0, "layers/1": 5, "layers/0": 5}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_leaf_does_not_change_before_its_turn_and_changes_from_then_on(case, base):
    method, turns = CASES[case]
    step, state, aux, _ = stepper(method, base)
    for i in range(8):
        before = flatten(jax.tree.map(jnp.copy, state.theta))
        state, _ = step(state, base, aux, step_batch(method, i))
        for start, turn in turns.items():
            leaves = [path for path in before if path.startswith(start)]
            moved = [max_difference(flatten(state.theta)[path], before[path]) > 0 for path in leaves]
            assert moved and (any(moved) if i >= turn else not any(moved)), (i, start)


def test_an_open_leaf_takes_the_optimizer_s_own_update(base):
    """Against the optimizer alone on the same gradients: equal where unfrozen, else 0."""
    method, plain = Unfreeze(every=2), optax.adamw(0.1)
    tx = method.transform(plain, StepContext(base, method.prepare(context(base), jax.random.key(0))))
    state, alone, rng = tx.init(base), plain.init(base), np.random.default_rng(0)
    for i in range(7):
        gradients = jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape)), base)
        updates, state = tx.update(gradients, state, base)
        whole, alone = plain.update(gradients, alone, base)
        for path, update in flatten(updates).items():
            turn = next((turn for start, turn in TURNS.items() if path.startswith(start)), 0)
            expected = flatten(whole)[path] if i >= turn else jnp.zeros_like(update)
            assert bool((update == expected).all()), (i, path)


def test_a_run_too_short_says_so_and_settings_are_bounded(base):
    notes = []
    Unfreeze(every=4).prepare(context(base)._replace(note=notes.append), jax.random.key(0))
    assert notes == ["unfreeze: with one more block every 4 steps, 10 steps do not unfreeze everything"]
    assert int(LPFT(share=0.31).prepare(context(base), jax.random.key(0))["until"]) == math.ceil(3.1)
    with pytest.raises(InputError, match=r"--lpft\.share must be between 0 and 1"):
        LPFT(share=1.5)
    with pytest.raises(InputError, match=r"--unfreeze\.every must be at least 1"):
        Unfreeze(every=0)
    with pytest.raises(InputError, match="unfreeze and lpft each constrain the updates"):
        chain(Unfreeze(), LPFT())


@pytest.mark.parametrize("method", [Full() + Unfreeze(every=2), LPFT(share=0.4), SI() + OGD(), GPM()])
def test_a_state_on_disk_goes_on_to_the_same_bits(method, base, tmp_path):
    step, state, aux, _ = stepper(method, base)
    checkpoints, shapes = Checkpoints(tmp_path), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    for i in range(6):
        if i == 3:
            checkpoints.save(3, state, {})
        state, _ = step(state, base, aux, step_batch(method, i))
    again = checkpoints.restore(shapes, 3).tree
    for i in range(3, 6):
        again, _ = step(again, base, aux, step_batch(method, i))
    assert max_difference((state.theta, state.opt_state), (again.theta, again.opt_state)) == 0
