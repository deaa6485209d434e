"""Every method where tokens are predicted: the new and the original task share the language head of a tiny decoder."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import flatten, unflatten
from fft.experiment import Optim
from fft.fisher.squares import squares_of
from fft.methods import EWC, KL, LPFT, METHODS, OGD, Context, LwF, Replay, StepContext, parse_chain
from fft.models import FAMILIES
from fft.models.files.keys import expected_shapes
from fft.models.model import build
from fft.tasks import Language
from fft.training.optim import make_optimizer, multipliers, schedule
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers.methods import SETTINGS

VOCABULARY, TOKENS, PLACES = 23, 6, 3
FAMILY = FAMILIES["llama"]
CONFIG = FAMILY.config(
    vocab_size=VOCABULARY,
    hidden_size=16,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    pad_token_id=0,
)
MODEL, TASK = build(FAMILY, CONFIG), Language()
REFUSED = ("lpft", "pseudo", "bitfit")
"""methods that make no sense for this model, or for its tasks"""
STEPS = 4


def rows(seed, count=4, filler=0):
    """Rows with targets at some places, of different numbers; the last rows are filler."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY, (count, TOKENS)).astype(np.int32)
    places = np.sort(rng.permuted(np.tile(np.arange(TOKENS, dtype=np.int32), (count, 1)), axis=1)[:, :PLACES], axis=1)
    weight = (np.arange(PLACES) < 1 + np.arange(count)[:, None] % PLACES).astype(np.float32)
    weight[count - filler :] = 0
    targets = rng.integers(0, VOCABULARY, weight.shape).astype(np.int32)
    row = np.arange(count, dtype=np.int32)
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids), targets, weight, row, None, places)


def rows_of(stream, seed=0):
    return rows(seed if stream == "new" else 50, filler=int(stream != "new"))


@pytest.fixture(scope="module")
def base():
    rng = np.random.default_rng(0)
    noise = {path: rng.normal(0, 0.4, shape) for path, shape in expected_shapes(FAMILY, CONFIG, {}).items()}
    return unflatten({path: jnp.asarray(x + path.endswith("/scale"), jnp.float32) for path, x in noise.items()})


ORIGINAL = rows(50)


def context(base, method, batch=ORIGINAL):
    multiplier = multipliers(method, jax.eval_shape(method.init, base, jax.random.key(0)), MODEL.depth)
    pooled = MODEL.states(base, rows(50)).pooled
    return Context(
        *(MODEL, base, (), TASK, lambda n, size: [batch]),
        new=TASK,
        teacher=SimpleNamespace(outputs=lambda stream, part: np.asarray(pooled)),
        steps=STEPS,
        is_trained=lambda path: multiplier.get(path, 0.0) != 0,
    )


def cut(batch, micros):
    return jax.tree.map(lambda x: x.reshape(micros, -1, *x.shape[1:]), batch)


def stepped(method, base, steps=2, lr=0.01, theta=None, accumulate=1):
    """(state, metrics) after some steps."""
    start = method.init(base, jax.random.key(1)) if theta is None else theta
    multiplier, settings = multipliers(method, start, MODEL.depth), Optim(lr=lr, warmup=0.0)
    tx = make_optimizer(start, multiplier, settings, STEPS)
    method.check(context(base, method))
    aux = method.prepare(context(base, method), jax.random.key(2))
    step = make_train_step(MODEL, TASK, method, tx, multiplier, TASK, schedule=schedule(settings, STEPS))
    state = init_state(jax.tree.map(jnp.copy, start), method.transform(tx, StepContext(base, aux)), jax.random.key(3))
    streams = ("new", *method.streams)
    for at in range(steps):
        batch = {stream: cut(rows_of(stream, at), accumulate if stream == "new" else 1) for stream in streams}
        state, metrics = step(state, base, aux, batch)
    return state, metrics


@pytest.mark.parametrize("names", [*sorted({*METHODS} - {*REFUSED}), "lora+ewc", "lora+kl+replay"])
def test_every_method_learns_tokens(names, base):
    method = parse_chain(names, {name: SETTINGS[name] for name in names.split("+") if name in SETTINGS})
    before = jax.tree.map(jnp.copy, base)
    state, metrics = stepped(method, base)
    assert np.isfinite(float(metrics["loss"])) and np.isfinite(float(metrics["penalty"]))
    after = flatten(method.finish(base, method.merge(base, state.theta)))
    assert {path for path in after if not path.startswith("prompt/")} == flatten(base).keys()
    assert any(bool((leaf != flatten(base).get(path, 0.0)).any()) for path, leaf in after.items())
    for path, leaf in flatten(before).items():
        assert bool((leaf == flatten(base)[path]).all()), f"the base is never changed, but {path} is"


def nll_of(params, batch):
    """The nll of every target [B, S], by all logits."""
    logits = MODEL.unembed(params, MODEL.states(params, batch, read=("tokens",)).tokens)
    return -np.take_along_axis(log_softmax_at(logits, batch), batch.targets[..., None], axis=2)[..., 0]


def log_softmax_at(logits, batch):
    return np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch.places[..., None], axis=1)


def test_the_loss_of_a_step_is_the_mean_over_all_its_targets(base):
    _, metrics = stepped(parse_chain("full"), base, steps=1)
    _, micros = stepped(parse_chain("full"), base, steps=1, accumulate=2)
    batch = rows_of("new", 0)
    expected = np.sum(nll_of(base, batch) * batch.weight) / batch.weight.sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(micros["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(micros["grad_norm"], metrics["grad_norm"], rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "stream"), [(KL(strength=0.7, temperature=1.5), "original"), (LwF(0.7, 1.5), "new")]
)
def test_kl_and_lwf_compare_with_the_base_in_every_step(base, method, stream):
    moved = jax.tree.map(lambda leaf: leaf * 1.1, base)
    _, metrics = stepped(method, base, steps=1, theta=moved)
    batch = rows_of(stream)
    states = [MODEL.states(params, batch, read=("tokens",)).tokens for params in (base, moved)]
    teacher, current = (
        log_softmax_at(MODEL.unembed(params, x) / 1.5, batch) for params, x in zip((base, moved), states, strict=True)
    )
    divergence = 1.5**2 * np.sum(np.exp(teacher) * (teacher - current), axis=-1)
    expected = 0.7 * np.sum(divergence * batch.weight) / batch.weight.sum()
    np.testing.assert_allclose(metrics["penalty"], expected, rtol=1e-4)
    assert method.prepare(context(base, method), jax.random.key(0)) == {}, "logits over a vocabulary are not stored"


def test_replay_adds_the_mean_loss_of_its_own_targets(base):
    _, metrics = stepped(Replay(), base, steps=1)
    batch = rows_of("original")
    expected = np.sum(nll_of(base, batch) * batch.weight) / batch.weight.sum()
    np.testing.assert_allclose(metrics["penalty"], expected, rtol=1e-5)


def test_the_fisher_squares_the_summed_gradient_of_a_sequence(base):
    """Against a loop over rows; the targets are the data's."""
    batch = rows(50, filler=1)
    fused = squares_of(MODEL, TASK, estimator="empirical")(base, base, batch, jax.random.key(0))

    def nll(params, row):
        outputs = outputs_of(MODEL, params, row, read=("tokens",))
        return jnp.sum(TASK.terms(outputs, row) * row.weight)

    total = jax.tree.map(jnp.zeros_like, base)
    for at in range(3):
        gradient = jax.grad(nll)(base, jax.tree.map(lambda x, at=at: x[at : at + 1], batch))
        total = jax.tree.map(lambda t, g: t + g**2, total, gradient)
    for path, leaf in flatten(total).items():
        error = np.linalg.norm(flatten(fused)[path] - leaf) / np.linalg.norm(leaf)
        assert error < 1e-5, f"{path}: {error}"


def test_exact_over_a_vocabulary_is_refused(base):
    with pytest.raises(InputError, match=r"a backward pass for each token of the vocabulary .* use mc"):
        EWC(estimator="exact").prepare(context(base, EWC()), jax.random.key(0))


def test_ogd_protects_the_logits_of_the_targets(base):
    """With other targets its directions are others."""
    other = ORIGINAL._replace(targets=(ORIGINAL.targets + 1) % VOCABULARY)
    first, second = (OGD().prepare(context(base, OGD(), batch), jax.random.key(0)) for batch in (ORIGINAL, other))
    assert any(bool((a != b).any()) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


def test_a_method_that_trains_a_new_head_first_is_refused_by_name(base):
    with pytest.raises(InputError, match="lpft trains a new head first, and a task that predicts tokens has none"):
        LPFT().check(context(base, LPFT()))
