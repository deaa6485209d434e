"""The train step with a new task of classes and an original task of tags, against an objective row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.core.tree import flatten
from fft.methods import KL, Distill, LwF, Replay
from fft.tasks import Classify
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers.tagging import Tag, tiny_encoder, token_rows

NEW, TAGS = Classify("new", ("x", "y", "z")), Tag("tags", ("a", "b"))


def rows_of_classes(lengths, seed):
    batch = token_rows(lengths, classes=3, seed=seed)
    return batch._replace(targets=batch.targets[:, 0], weight=np.ones(len(lengths), np.float32))


def divergence(before, now, temperature):
    """τ² KL(softmax(before / τ) ‖ softmax(now / τ)) of one target [C]."""
    p = jax.nn.softmax(before / temperature)
    return temperature**2 * jnp.sum(p * (jnp.log(p) - jax.nn.log_softmax(now / temperature)))


def test_every_term_is_divided_by_its_own_weight():
    """Two micro-batches of unlike lengths; the method's terms are [B] and [B, T] on rows of either kind."""
    model, base = tiny_encoder({"new": 3, "tags": 2})
    theta = jax.tree.map(lambda x: x + 0.1 * jnp.cos(x), base)
    new, old = rows_of_classes((5, 3, 4, 2), seed=1), token_rows((5, 4, 5), classes=2, seed=2, filler=1)
    method = KL(strength=0.7, temperature=1.5) + Replay(strength=0.5) + LwF(strength=0.3) + Distill(strength=0.2)

    def said(params, batch):
        states = model.states(params, batch, read=("tokens", "pooled"))
        return states.pooled, *(
            model.readout(params, head, x) for head, x in (("new", states.pooled), ("tags", states.tokens))
        )

    (_, _, before_new), (pooled, _, before_old) = said(base, new), said(base, old)
    aux = {"kl": {"logits": before_old}, "lwf": {"logits": before_new}, "distill": {"pooled": pooled}}

    def objective(params):
        _, classes, tags = said(params, new)
        now, _, of_old = said(params, old)
        loss = jnp.mean(jnp.stack([-jax.nn.log_softmax(classes[b])[new.targets[b]] for b in range(4)]))
        real = [(b, t) for b in range(4) for t in range(5) if new.mask[b, t]]
        lwf = sum(divergence(before_new[at], tags[at], 2.0) for at in real) / len(real)
        asked = [(b, t) for b in range(2) for t in range(5) if old.weight[b, t]]
        kl = sum(divergence(before_old[at], of_old[at], 1.5) for at in asked) / len(asked)
        replay = -sum(jax.nn.log_softmax(of_old[at])[old.targets[at]] for at in asked) / len(asked)
        moved = [jnp.sum((now[b] - pooled[b]) ** 2) / jnp.sum(pooled[b] ** 2) for b in range(2)]
        return loss + 0.7 * kl + 0.5 * replay + 0.3 * lwf + 0.2 * sum(moved) / 2, loss

    (whole, loss), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(theta)
    tx, multiplier = optax.sgd(1.0), dict.fromkeys(flatten(theta), 1.0)
    step = make_train_step(model, NEW, method, tx, multiplier, TAGS)
    batch = {
        "new": jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), new),
        "original": jax.tree.map(lambda x: x[None], old),
    }
    start = jax.tree.map(jnp.copy, theta)
    state, metrics = step(init_state(theta, tx, jax.random.key(0)), base, aux, batch)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(metrics["loss"] + metrics["penalty"]) == pytest.approx(float(whole), rel=1e-5)
    for path, slope in flatten(gradient).items():
        found = np.asarray(flatten(start)[path]) - np.asarray(flatten(state.theta)[path])
        np.testing.assert_allclose(found, slope, atol=2e-6, err_msg=path)
