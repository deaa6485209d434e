"""The base's likeliest tokens, computed once, in place of the base in every step: their divergence and their order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Outputs, States
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.data import PackedBatches, TrainBatches
from fft.evaluate.teacher import base_likeliest
from fft.methods import KL, Context, LwF
from fft.tasks import Classify, Language
from tests.helpers.language_rows import texts
from tests.methods.test_language_tasks import MODEL, TASK, VOCABULARY, base, rows

__all__ = ["base"]
T = 2.0


def outputs(logits):
    """The outputs of a model whose states are its logits."""
    return Outputs(States(tokens=logits), lambda head, states: states)


def divergences(count, base_logits, logits, batch):
    of_base = TASK.likeliest(outputs(base_logits), batch, count, T)
    return TASK.divergences_from(*of_base, outputs(logits), batch, T)


def test_a_few_tokens_and_the_rest_are_a_distribution_of_their_own():
    """Against the divergence of K + 1 probabilities by a plain loop; of all tokens it is that of the whole."""
    rng = np.random.default_rng(0)
    batch = rows(1)
    before, after = (rng.normal(0, 2, (4, 6, VOCABULARY)).astype(np.float32) for _ in range(2))
    found = divergences(3, before, after, batch)
    for row, place in np.ndindex(*batch.places.shape):
        p, q = (jax.nn.softmax(x[row, batch.places[row, place]].astype(np.float64) / T) for x in (before, after))
        top = np.argsort(-p)[:3]
        p, q = (np.append(x[top], 1 - x[top].sum()) for x in (np.asarray(p), np.asarray(q)))
        assert float(found[row, place]) == pytest.approx(T**2 * float(np.sum(p * np.log(p / q))), rel=2e-5)

    def whole(after):
        return TASK.divergences(outputs(before), outputs(after), batch, T)

    def of_all(after):
        return divergences(VOCABULARY, before, after, batch)

    np.testing.assert_allclose(of_all(after), whole(after), rtol=1e-5, atol=1e-6)
    gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x)))(jnp.asarray(after)) for f in (of_all, whole)]
    np.testing.assert_allclose(*gradients, atol=1e-5)
    assert (np.asarray(found) <= np.asarray(whole(after)) + 1e-6).all()
    same = jax.grad(lambda x: jnp.sum(divergences(3, before, x, batch)))(jnp.asarray(before))
    np.testing.assert_allclose(same, 0, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_every_target_finds_what_the_base_predicts_at_its_place(base, packed):
    """Against the base on the very batch; rows of different lengths, of which a half is supervised."""
    data = texts([5, 12, 3, 9, 7, 12, 4], share=0.5)
    data = data._replace(ids=[ids % VOCABULARY for ids in data.ids])
    batches = PackedBatches(data, 2, 0, 16, 0) if packed else TrainBatches(data, 3, 0, (8, 12), 0)
    checkpoint = type("Checkpoint", (), {"model": MODEL, "params": base})
    polls = []
    ids, logs = base_likeliest(checkpoint, TASK, batches, 2, 4, T, lambda: polls.append(1))
    read = np.unique(np.concatenate([batches.rows(step) for step in range(2)]))
    counts = data.target_counts()
    assert ids.shape == (counts.sum(), 4) and polls
    unread = np.repeat(~np.isin(np.arange(7), read), counts)
    assert (logs[unread] == 0).all() and (logs[~unread] < 0).all()
    for step in range(2):
        batch = batches.batch(step)
        outputs = outputs_of(MODEL, base, batch, read=("tokens",))
        _, expected = TASK.likeliest(outputs, batch, 4, T)
        real = batch.weight > 0
        np.testing.assert_allclose(logs[batch.numbers][real], np.asarray(expected)[real], atol=2e-5)


def test_tokens_that_are_drawn_anew_have_no_numbers():
    data = texts([5, 6])
    assert TrainBatches(data, 2, 0, (6,), 0).batch(0).numbers.shape == (2, 6)
    masked = data._replace(
        masking=type("Masking", (), {"draw": lambda self, at, rng: (data.ids[at], data.targets[at])})()
    )
    assert TrainBatches(masked, 2, 0, (6,), 0).batch(0).numbers is None


def test_the_base_is_run_in_the_step_or_before_it():
    assert KL().parts().teaches == {"original"} and KL(likeliest=20).parts().teaches == frozenset()
    assert LwF().parts().teaches == {"new"} and LwF(likeliest=20).parts().teaches == frozenset()


@pytest.mark.parametrize(
    ("method", "task", "fixed", "message"),
    [
        (
            KL(likeliest=20),
            Classify("original", ("a", "b")),
            {"original"},
            "--kl.likeliest 20 is for the tokens of a lang",
        ),
        (
            KL(likeliest=20),
            Language(),
            {"new"},
            "--kl.likeliest 20 keeps the base's predictions of the tokens of the ori",
        ),
        (
            LwF(likeliest=5),
            Language(),
            set(),
            "--lwf.likeliest 5 keeps the base's predictions of the tokens of the new",
        ),
    ],
)
def test_likeliest_tokens_are_refused_where_none_stay_the_same(method, task, fixed, message):
    context = Context(MODEL, {}, original=task, fixed_tokens=frozenset(fixed))
    with pytest.raises(InputError, match=message):
        method.parts().check(context)
    dataclasses.replace(method, likeliest=0).parts().check(context)
