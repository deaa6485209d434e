"""SAM against its equations, against optax's own, and for gradients of 0."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import flatten, unflatten
from fft.methods import AGEM, L2SP, SAM, Full, LoRA, Replay, chain
from fft.tasks.classify import Classify
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers.tiny_runs import fft, record
from tests.helpers.toy import Toy, toy_batch, toy_params

MODEL, LR, RHO, CLIP = Toy(), 0.3, 0.2, 0.25
NEW, ORIGINAL = Classify("new", ("a", "b", "c")), Classify("original", ("x", "y", "z"))
FROZEN = ("embed", "heads/original")


def mean_nll(logits, batch):
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return jnp.sum(nll * batch.weight) / jnp.sum(batch.weight)


def new_loss(params, new, other):
    return mean_nll(MODEL.apply(params, new)["logits"]["new"], new)


def with_replay(params, new, other):
    return new_loss(params, new, other) + 0.5 * mean_nll(MODEL.apply(params, other)["logits"]["original"], other)


def away(base):
    return lambda params: 0.05 * sum(jnp.sum(jnp.square(x - y)) for x, y in _pairs(params, base))


def _pairs(params, base):
    ours, theirs = flatten(params), flatten(base)
    return [(ours[path], theirs[path]) for path in ours if not path.startswith("heads/new")]


CASES = {
    "sam": (SAM(rho=RHO), new_loss, False),
    "sam, replay": (chain(Replay(strength=0.5), SAM(rho=RHO)), with_replay, False),
    "sam, l2sp": (chain(L2SP(strength=0.1, head_strength=0.0), SAM(rho=RHO)), new_loss, True),
}


def trained_by(method, base, start, batches, tx, model=MODEL, micros=1):
    multiplier = {path: 0.0 if path.startswith(FROZEN) else 1.0 for path in flatten(base)}
    known = {path: jnp.ones(()) for path in flatten(base) if not path.startswith("heads/new")}
    aux = {"l2sp": unflatten(known)}
    step = make_train_step(model, NEW, method, tx, multiplier, ORIGINAL)
    state, seen = init_state(jax.tree.map(jnp.copy, start), tx, jax.random.key(0)), []
    for new, other in batches:
        batch = {"new": jax.tree.map(lambda x: x.reshape(micros, -1, *x.shape[1:]), new)}
        batch |= {name: jax.tree.map(lambda x: x[None], other) for name in method.streams}
        state, metrics = step(state, base, aux, batch)
        seen.append({name: float(value) for name, value in metrics.items()})
    return state, seen


@pytest.fixture
def places():
    base = toy_params(heads={"original": 3, "new": 3})
    start = toy_params(1, heads={"original": 3, "new": 3})
    batches = [(toy_batch(i, rows=8, filler=1), toy_batch(40 + i, rows=6, filler=2)) for i in range(5)]
    return base, start, batches


@pytest.mark.parametrize("micros", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_five_steps_by_the_equations(places, case, micros):
    """ε = ρ g / ‖g‖ over only the trained leaves, g' at θ + ε, the penalty at θ, the clip on the sum, in float64."""
    (base, start, batches), (method, loss, has_penalty) = places, CASES[case]
    tx = optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(LR))
    state, seen = trained_by(method, base, start, batches, tx, micros=micros)
    at, clipped = {path: np.asarray(x, np.float64) for path, x in flatten(start).items()}, 0
    live = [path for path in at if not path.startswith(FROZEN)]

    def slope(function, where):
        gradients = flatten(jax.grad(function)(unflatten({path: jnp.float32(x) for path, x in where.items()})))
        return {path: np.asarray(gradients[path], np.float64) for path in live}

    for (new, other), metrics in zip(batches, seen, strict=True):
        here = slope(lambda params, new=new, other=other: loss(params, new, other), at)
        length = np.sqrt(sum((g**2).sum() for g in here.values()))
        up = {path: x + (RHO * here[path] / length if path in live else 0.0) for path, x in at.items()}
        g = slope(lambda params, new=new, other=other: loss(params, new, other), up)
        if has_penalty:
            pull = slope(away(base), at)
            g = {path: g[path] + pull[path] for path in live}
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4), "before the clip"
        params = unflatten({path: jnp.float32(x) for path, x in at.items()})
        assert metrics["loss"] == pytest.approx(float(new_loss(params, new, other)), rel=1e-4), (
            "the loss is that at theta"
        )
        clipped += norm > CLIP
        for path in live:
            at[path] = at[path] - LR * g[path] * min(1.0, CLIP / norm)
    assert clipped >= 3, "the gradient is clipped"
    for path, leaf in flatten(state.theta).items():
        np.testing.assert_allclose(leaf, at[path], atol=2e-5, err_msg=path)
        if path not in live:
            assert bool((leaf == flatten(start)[path]).all()), f"{path} is frozen"


def test_it_is_optaxs_sam_where_nothing_is_frozen(places):
    """optax.contrib.sam with its inner loop hidden, AdamW outside."""
    base, start, batches = places
    theirs = contrib.sam(
        optax.adamw(0.05), optax.chain(contrib.normalize(), optax.sgd(RHO)), sync_period=2, opaque_mode=True
    )
    params, state = start, theirs.init(start)
    for new, _ in batches:
        grad = jax.grad(lambda params, new=new: new_loss(params, new, None))
        updates, state = theirs.update(grad(params), state, params, grad_fn=lambda p, i, grad=grad: grad(p))
        params = optax.apply_updates(params, updates)
    tx = optax.adamw(0.05)
    step = make_train_step(MODEL, NEW, SAM(rho=RHO), tx, dict.fromkeys(flatten(base), 1.0), ORIGINAL)
    ours = init_state(jax.tree.map(jnp.copy, start), tx, jax.random.key(0))
    for new, _ in batches:
        ours, _ = step(ours, base, {}, {"new": jax.tree.map(lambda x: x[None], new)})
    for path, leaf in flatten(ours.theta).items():
        np.testing.assert_allclose(leaf, flatten(params)[path], atol=1e-4, err_msg=path)


def test_both_passes_use_the_same_dropout(places):
    class Noisy(Toy):
        def readout(self, params, head, states, *, key=None):
            logits = super().readout(params, head, states)
            return logits if key is None else 2.0 * jax.random.bernoulli(key, 0.5, logits.shape) * logits

    base, start, batches = places
    new = batches[0][0]
    step = make_train_step(Noisy(), NEW, SAM(rho=RHO), optax.sgd(LR), dict.fromkeys(flatten(base), 1.0), ORIGINAL)
    state = init_state(jax.tree.map(jnp.copy, start), optax.sgd(LR), jax.random.key(5))
    state, _ = step(state, base, {}, {"new": jax.tree.map(lambda x: x[None], new)})
    key = jax.random.split(jax.random.fold_in(jax.random.key(5), 0))[1]
    grad = jax.grad(lambda params: mean_nll(NEW.logits(outputs_of(Noisy(), params, new, key=key), new), new))
    here = grad(start)
    up = jax.tree.map(lambda x, g: x + RHO * g / optax.tree.norm(here), start, here)
    expected = jax.tree.map(lambda x, g: x - LR * g, start, grad(up))
    for path, leaf in flatten(state.theta).items():
        np.testing.assert_allclose(leaf, flatten(expected)[path], atol=1e-5, err_msg=path)


def test_epsilon_is_0_for_a_gradient_of_0_and_for_untrained_leaves():
    theta = {"a": jnp.ones(3), "b": jnp.ones(2)}
    still = SAM().climb(theta, {"a": jnp.zeros(3)})
    assert bool((still["a"] == 1).all()) and still["b"] is theta["b"]
    moved = SAM(rho=1.0).climb(theta, {"a": jnp.array([3.0, 0.0, -4.0])})
    np.testing.assert_allclose(moved["a"], [1.6, 1.0, 0.2], rtol=1e-6)


def test_agem_projects_the_gradients_at_the_climbed_point(places):
    """Both gradients are taken at θ + ε, and ε is from the projected gradient at θ."""
    base, start, batches = places
    method, seen = chain(AGEM(), SAM(rho=RHO)), set()
    for new, other in batches:
        went = trained_by(method, base, start, [(new, other)], optax.sgd(LR))[0].theta
        live = [path for path in flatten(start) if not path.startswith(FROZEN)]

        def long(where, stream, new=new, other=other, live=live):
            rows = new if stream == "new" else other
            gradients = flatten(jax.grad(lambda p: mean_nll(MODEL.apply(p, rows)["logits"][stream], rows))(where))
            return np.concatenate([np.ravel(gradients[path]) for path in live]).astype(np.float64)

        def projected(where, long=long):
            g, g_o = long(where, "new"), long(where, "original")
            seen.add(bool(g @ g_o < 0))
            return g - min(g @ g_o, 0.0) / (g_o @ g_o) * g_o

        here = projected(start)
        up, at, leaves = {}, 0, flatten(start)
        for path in live:
            size = leaves[path].size
            up[path] = leaves[path] + jnp.reshape(RHO * here[at : at + size] / np.linalg.norm(here), leaves[path].shape)
            at += size
        expected = projected(unflatten({**leaves, **up}))
        moved = np.concatenate([np.ravel(leaves[path] - flatten(went)[path]) for path in live]) / LR
        np.testing.assert_allclose(moved, expected, atol=3e-5)
    assert seen == {True, False}, "some gradients conflict and some do not"


def test_an_invalid_radius_is_rejected():
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"--sam\.rho must be a positive number"):
            SAM(rho=wrong)
    assert chain(LoRA(), SAM()).owner == LoRA() and chain(Full(), SAM()).label == "full+sam"


def test_a_run_counts_its_steps_once_and_learns(tiny, tmp_path):
    short = ("--steps", 40, "--batch-size", 16, "--tolerance", 1, "--lr", 1e-2, "--keep", "latest", "--json")
    given = ("--model", tiny / "bert", "--new", tiny / "new.csv", "--original", tiny / "original.csv")
    answer = fft("tune", *given, *short, "--method", "sam", "--sam.rho", 0.1, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    result = record(tmp_path / "run")
    assert result["steps"] == 40 and result["new"]["after"] > 0.9
