"""Every member of a chain has an effect: leaving it out changes the result of the run, or the chain is rejected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.core.errors import InputError
from fft.experiment import Optim
from fft.methods import EWC, METHODS, LoRA, Method, Mixout, Parts, StepContext, chain
from fft.methods.parts import transformation, updates_of
from fft.methods.trees import BASE_TREE
from fft.training.optim import make_optimizer, multipliers, schedule
from fft.training.state import init_state
from fft.training.step import finished_params, make_train_step
from tests.helpers.methods import CHAINS, MODEL, SETTINGS, context, stream_batch, task
from tests.helpers.toy import max_difference, toy_params

STEPS = 3


def rows(stream, step):
    """Rows of a stream: the original ones are the new ones with other labels, so that their gradients conflict."""
    batch = stream_batch("new", step)
    if stream == "new":
        return batch
    return batch._replace(targets=(batch.targets + 1) % 3, weight=np.ones(8, np.float32))


@functools.cache
def train(*members):
    """Train a chain on the base's own head and return the finished parameters and the optimizer's state."""
    keys = 2 if any(member.name == "prefix" for member in members) else 0
    base, method = toy_params(heads={"original": 3, "new": 3}, words=7, keys=keys), chain(*members)
    theta = method.init(base, jax.random.key(1))
    multiplier = multipliers(method, theta, MODEL.depth, ())
    optim = Optim(lr=0.05, warmup=0.0)
    tx = make_optimizer(theta, multiplier, optim, STEPS)
    aux = method.prepare(context(base, method)._replace(steps=STEPS), jax.random.key(2))
    step = make_train_step(
        MODEL, task("original"), method, tx, multiplier, task("original"), schedule=schedule(optim, STEPS)
    )
    state = init_state(theta, method.transform(tx, StepContext(base, aux)), jax.random.key(3))
    for at in range(STEPS):
        read = {stream: jax.tree.map(lambda x: x[None], rows(stream, at)) for stream in ("new", *method.streams)}
        state, _ = step(state, base, aux, read)
    return finished_params(method, base, state.theta, ()), state.opt_state


def differ(first, second):
    return jax.tree.structure(first) != jax.tree.structure(second) or max_difference(first, second) > 0


@pytest.mark.parametrize("names", CHAINS)
def test_no_member_can_be_left_out(names):
    members = [SETTINGS.get(name, METHODS[name]()) for name in names.split("+")]
    for member in members:
        others = [other for other in members if other is not member]
        if member.tree == BASE_TREE:  # else the trainable tree is another one without it
            part = int(member.name == "si")  # without an earlier run it only measures
            assert differ(train(*members)[part], train(*others)[part]) == (member.name != "full"), member.name


@pytest.mark.parametrize("first", [0, 1])
def test_a_method_that_mixes_takes_effect_wherever_it_stands(first):
    members = [EWC(way="vmapped"), Mixout()]
    assert differ(train(members[first], members[1 - first])[0], train(members[0])[0])


@pytest.mark.parametrize("other", [LoRA(), METHODS["prompt"]()])
def test_two_members_that_set_what_is_trained_are_rejected(other):
    with pytest.raises(InputError, match=f"mixout and {other.name} each set what is trained"):
        Mixout() + other


def around(change):
    """Return a slot that applies `change` to the updates of the inner optimizer."""

    def wrap(tx, now):
        def update(gradients, state, params):
            updates, state = updates_of(tx, gradients, state, params)
            return jax.tree.map(change, updates), state

        return transformation(tx.init, update)

    return wrap


def test_wrappers_of_the_optimizer_nest_in_the_order_of_their_slots():
    """Whatever the order of the members, the updates for gradients g are observe(confine(decay(wrap(g))))."""

    def method(called, **slots):
        return type(called, (Method,), {"name": called, "parts": lambda self: Parts(**slots)})()

    members = [
        method("observer", observe=around(lambda u: u + 5)),
        method("confined", confine=around(lambda u: u * 10)),
        method("decayed", decay=lambda now, updates, theta: jax.tree.map(lambda u: u + now.strength, updates)),
        method("wrapped", wrap=around(lambda u: u * 2)),
    ]
    tx = chain(*members).transform(optax.identity(), StepContext({}, strength=3.0))
    updates, _ = tx.update({"a": jnp.float32(7)}, tx.init({"a": jnp.float32(0)}), {"a": jnp.float32(0)})
    assert float(updates["a"]) == ((7 * 2) + 3) * 10 + 5
    with pytest.raises(InputError, match="confined and other each constrain the updates"):
        chain(*members, method("other", confine=around(lambda u: u)))
