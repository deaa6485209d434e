"""Streams: what a step reads beside the new task, and what the methods make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.core.batch import States
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.data.batches import TrainBatches
from fft.data.streams import held_out_sample, step_batch, training_batches
from fft.evaluate.teacher import base_outputs
from fft.experiment import Optim
from fft.methods import AGEM, EWC, KL, L2SP, Distill, Full, LwF, Replay, StepContext, chain
from fft.tasks.classify import Classify
from fft.tasks.regress import Regress
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers.language_rows import texts
from tests.helpers.tiny_tasks import encoded
from tests.helpers.toy import Toy, toy_batch, toy_params

MODEL, LR = Toy(), 0.1
NEW, ORIGINAL = Classify("new", ("a", "b", "c")), Classify("original", ("x", "y", "z"))


def mean_nll(logits, batch):
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return jnp.sum(nll * batch.weight) / jnp.sum(batch.weight)


def mean_kl(teacher, logits, weight, temperature):
    """τ² Σ_b w_b Σ_c p* (log p* − log p) / Σ w by the textbook."""
    p, q = (jnp.exp(z / temperature) / jnp.sum(jnp.exp(z / temperature), -1, keepdims=True) for z in (teacher, logits))
    return temperature**2 * jnp.sum(weight * jnp.sum(p * jnp.log(p / q), -1)) / jnp.sum(weight)


def replayed(base, params, new, other):
    return 0.3 * mean_nll(MODEL.apply(params, other)["logits"]["original"], other)


def kept(base, params, new, other):
    answers = (MODEL.apply(tree, other)["logits"]["original"] for tree in (base, params))
    return 0.7 * mean_kl(*answers, other.weight, 1.5)


def kept_on_new(base, params, new, other):
    answers = (MODEL.apply(tree, new)["logits"]["original"] for tree in (base, params))
    return 0.7 * mean_kl(*answers, new.weight, 2.0)


def distilled(base, params, new, other):
    before, now = (MODEL.apply(tree, other)["pooled"] for tree in (base, params))
    each = jnp.sum((now - before) ** 2, -1) / jnp.sum(before**2, -1)
    return 0.4 * jnp.sum(other.weight * each) / jnp.sum(other.weight)


def test_a_sample_is_bounded_in_tokens_where_tokens_are_predicted():
    lengths = np.random.default_rng(0).integers(30, 90, 50)
    plain, predicted = encoded(lengths), texts(lengths)
    order = np.random.default_rng(0).permutation(50)
    fitting = max(n for n in range(1, 5) if lengths[order[:n]].sum() <= 4 * 32)
    assert held_out_sample(predicted, 4).numbers.tolist() == predicted.numbers[np.sort(order[:fitting])].tolist()
    assert 1 < fitting < 4 and len(held_out_sample(plain, 4).ids) == 4
    assert len(held_out_sample(texts([5] * 50), 30).ids) == 30 and len(held_out_sample(texts([500] * 2), 3).ids) == 1


CASES = {
    "replay": (Replay(strength=0.3), replayed),
    "kl": (KL(strength=0.7, temperature=1.5), kept),
    "kl, unlabelled": (KL(strength=0.7, temperature=1.5, on="unlabelled"), kept),
    "lwf": (LwF(strength=0.7), kept_on_new),
    "distill": (Distill(strength=0.4), distilled),
    "replay+kl": (
        Replay(strength=0.3) + KL(strength=0.7, temperature=1.5),
        lambda *given: replayed(*given) + kept(*given),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("micros", [1, 2])
def test_a_step_descends_the_sum_of_the_new_loss_and_the_terms(case, micros):
    """One step of plain gradient descent against jax.grad of the objective written out."""
    method, terms = CASES[case]
    base, moved = toy_params(heads={"original": 3, "new": 3}), toy_params(1, heads={"original": 3, "new": 3})
    new, other = toy_batch(3, rows=8, filler=1), toy_batch(4, rows=6, filler=2)
    aux = {}
    for member in method.members:
        rows = new if isinstance(member, LwF) else other
        found = MODEL.apply(base, rows)
        picked = (
            {"logits": found["logits"]["original"]} if member.name in ("kl", "lwf") else {"pooled": found["pooled"]}
        )
        aux |= {} if member.name == "replay" else {member.name: picked}
    aux = aux if len(method.members) > 1 else next(iter(aux.values()), {})
    tx = optax.sgd(LR)
    step = make_train_step(MODEL, NEW, method, tx, dict.fromkeys(flatten(base), 1.0), ORIGINAL)
    state = init_state(jax.tree.map(jnp.copy, moved), tx, jax.random.key(0))
    batch = {"new": jax.tree.map(lambda v: v.reshape(micros, -1, *v.shape[1:]), new)}
    batch |= {name: jax.tree.map(lambda v: v[None], other) for name in method.streams}
    state, metrics = step(state, base, aux, batch)

    def objective(params):
        return mean_nll(MODEL.apply(params, new)["logits"]["new"], new) + terms(base, params, new, other)

    assert float(metrics["penalty"]) == pytest.approx(float(terms(base, moved, new, other)), rel=1e-5)
    for (path, got), slope in zip(
        flatten(state.theta).items(), jax.tree.leaves(jax.grad(objective)(moved)), strict=True
    ):
        np.testing.assert_allclose(got, flatten(moved)[path] - LR * slope, atol=1e-6, err_msg=path)


def test_regression_keeps_the_distance_of_two_normals():
    """KL(N(a, σ²) ‖ N(b, σ²)) = (a − b)² / 2σ², whatever the temperature."""
    teacher, now = jnp.array([[1.0], [2.0]]), jnp.array([[1.5], [0.0]])
    for temperature in (1.0, 3.0):
        found = Regress("original", sigma=0.5).divergence(teacher, now, temperature)
        np.testing.assert_allclose(found, [0.5, 8.0], rtol=1e-6)


def test_members_that_read_one_stream_share_its_rows():
    method = chain(Full(), Replay(ratio=0.25), KL(ratio=0.5), Distill(on="unlabelled", ratio=0.125))
    assert method.streams == {"original": 0.5, "unlabelled": 0.125}


def test_every_stream_draws_its_own_dropout():
    class Noisy(Toy):
        def states(self, params, batch, *, read=("pooled",), key=None, layers=()):
            return States(jax.random.normal(key, (len(batch.weight), 4)))

    def drawn(method, streams):
        base = toy_params(heads={"original": 3, "new": 3})
        theta = method.init(base, jax.random.key(0))
        multiplier = multipliers(method, theta, MODEL.depth)
        tx = make_optimizer(theta, multiplier, Optim(lr=0.1), 3)
        aux = {"distill": {"pooled": jnp.ones((8, 4))}}
        step = make_train_step(Noisy(), NEW, method, tx, multiplier, ORIGINAL)
        batch = {name: jax.tree.map(lambda v: v[None], toy_batch()) for name in streams}
        return float(step(init_state(theta, tx, jax.random.key(3)), base, aux, batch)[1]["penalty"])

    on = [drawn(Full() + Distill(on=name), dict.fromkeys(["new", name])) for name in ("new", "original", "unlabelled")]
    assert len(set(on)) == 3


def test_shares_decide_the_rows_of_a_step():
    data = {name: type("Data", (), {"splits": {"train": encoded(range(3, 40))}, "pad_id": 0}) for name in "ab"}
    optim = Optim(batch_size=8, accumulate=2)
    made = training_batches(optim.step_rows, {"a": 1.0, "b": 0.25}, data, 100, 0)
    assert (made["a"].batch_size, made["b"].batch_size) == (16, 4)
    assert (len(made["a"].lengths), len(made["b"].lengths)) == (3, 1), "a small share is padded to fewer lengths"
    cut = step_batch({"new": made["a"], "original": made["b"]}, 3, 2)
    assert cut["new"].ids.shape[:2] == (2, 8) and cut["original"].ids.shape[:2] == (1, 4)
    assert cut["original"].row.tolist() == [made["b"].rows(3).tolist()]


def test_base_outputs_stand_at_the_places_of_the_rows_that_are_read():
    rows = encoded([3, 9, 4, 7, 5, 5, 8, 6, 3, 4])
    batches = TrainBatches(rows, 2, 0, (5, 9), 0)
    found = base_outputs(lambda params, batch: params * jnp.sum(batch.mask, -1, keepdims=True), 2.0, batches, 3)
    read = {int(row) for step in range(3) for row in batches.rows(step)}
    wanted = [[2.0 * length if row in read else 0.0] for row, length in enumerate(rows.lengths())]
    assert found.tolist() == wanted and len(read) == 6


@pytest.mark.parametrize("micros", [1, 2])
@pytest.mark.parametrize("added", [Full(), L2SP(strength=3.0)])
def test_agem_takes_out_what_points_against_the_original_rows(micros, added):
    """One step of plain gradient descent against the projection in numpy, over one long vector of trained leaves."""
    base, moved = toy_params(heads={"original": 3, "new": 3}), toy_params(1, heads={"original": 3, "new": 3})
    method, tx = chain(added, AGEM()), optax.sgd(LR)
    multiplier = {path: 0.0 if path.startswith(("embed", "heads/original")) else 1.0 for path in flatten(base)}
    kept = {"l2sp": jax.tree.map(lambda _: jnp.ones(()), base)} if added.name == "l2sp" else {}
    step = make_train_step(MODEL, NEW, method, tx, multiplier, ORIGINAL)
    seen = set()
    for seed in range(6):
        new, other = toy_batch(seed, rows=8, filler=1), toy_batch(20 + seed, rows=6, filler=2)

        def objective(params, new=new):
            penalty = added.penalty(StepContext(base, kept.get("l2sp", {})), params)
            return mean_nll(MODEL.apply(params, new)["logits"]["new"], new) + penalty

        def long(function):
            slope = flatten(jax.grad(function)(moved))
            return np.concatenate([np.ravel(slope[path]) for path in slope if multiplier[path]]).astype(np.float64)

        g = long(objective)
        g_o = long(lambda params, other=other: mean_nll(MODEL.apply(params, other)["logits"]["original"], other))
        seen.add(against := bool(g @ g_o < 0))
        expected = g - (g @ g_o) / (g_o @ g_o) * g_o if against else g
        batch = {"new": jax.tree.map(lambda v: v.reshape(micros, -1, *v.shape[1:]), new)}
        batch |= {"original": jax.tree.map(lambda v: v[None], other)}
        state, metrics = step(init_state(jax.tree.map(jnp.copy, moved), tx, jax.random.key(0)), base, kept, batch)
        paths, start = [path for path in flatten(moved) if multiplier[path]], flatten(moved)
        went = np.concatenate([np.ravel(start[path] - flatten(state.theta)[path]) for path in paths]) / LR
        np.testing.assert_allclose(went, expected, atol=2e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(np.linalg.norm(expected), rel=1e-4), "the clip's norm"
        assert abs(min(went @ g_o, 0.0)) < 1e-4 * np.linalg.norm(g_o) * np.linalg.norm(g)
    assert seen == {True, False}, "both sides were met"


def test_agem_is_plain_descent_where_the_original_rows_ask_for_nothing():
    zero = {"a": jnp.zeros(3)}
    found = AGEM().combine({"penalty": zero, "new": {"a": jnp.ones(3)}, "original": zero})
    assert found["a"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("other", [Replay(), KL(), Distill()])
def test_agem_shares_its_rows_with_no_other_method(other):
    with pytest.raises(InputError, match=f"agem replaces the gradient.*and {other.name} needs"):
        chain(other, AGEM())
    assert chain(LwF(), AGEM(), EWC()).streams == {"original": 1.0}
