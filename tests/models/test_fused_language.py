"""The fused Fisher pass through language heads, tied and untied, equals a loop over sequences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Batch
from fft.core.naming import UNEMBED
from fft.core.tree import flatten, unflatten
from fft.fisher.diagonal import diagonal_fisher
from fft.models import FAMILIES
from fft.models.files.keys import expected_shapes
from fft.models.files.unembed import language_shapes
from fft.models.model import build
from fft.tasks import Classify
from tests.models.test_fused_decoders import GROUPED, MODELS, SIZES

VOCAB = SIZES["vocab_size"]
CASES = {
    "llama": MODELS["llama"],
    "llama, tied": {**MODELS["llama"], "tie_word_embeddings": True},
    "qwen3": {**GROUPED, "num_hidden_layers": 1, "tie_word_embeddings": False},
    "gemma2": {**GROUPED, "query_pre_attn_scalar": 6, "final_logit_softcapping": 2.0, "sliding_window": 3},
    "granite": {**MODELS["granite"], "logits_scaling": 0.5},
    "gpt2": MODELS["gpt2"],
    "bert": {**SIZES, "num_hidden_layers": 1},
    "bert, untied": {**SIZES, "num_hidden_layers": 1, "tie_word_embeddings": False},
    "modernbert": {**MODELS["modernbert"], "decoder_bias": True},
}
KEY_BIASES = ("attention/key/bias",)
"""softmax does not see them where nothing is rotated"""


class Tokens(Classify):
    """A target for every token, predicted by the language head; each token is its own target for a masked model."""

    reads = "tokens"


TASK = Tokens(UNEMBED, tuple(map(str, range(VOCAB))))


def random_model(case):
    """(Model, random parameters with a language head and one of three classes, which the task does not read)."""
    family = FAMILIES[case.split(",")[0]]
    config = family.config(**CASES[case])
    assert not list(config.problems())
    rng = np.random.default_rng(0)
    shapes = expected_shapes(family, config, {"original": 3}) | language_shapes(family, config)
    leaves = {path: jnp.asarray(rng.normal(0, 0.4, shape), jnp.float32) for path, shape in shapes.items()}
    return build(family, config), unflatten(leaves)


def sequences():
    """Rows with repeated ids, two of them padded, the last one filler; the successors are the targets."""
    rng = np.random.default_rng(1)
    mask = (np.arange(7)[None] < np.array([7, 5, 4, 7])[:, None]).astype(np.int32)
    ids = np.where(mask, rng.integers(4, VOCAB, mask.shape), 3).astype(np.int32)
    ids[:, 2] = ids[:, 1]
    targets = np.pad(ids[:, 1:], ((0, 0), (0, 1)))
    weight = np.pad(mask[:, 1:], ((0, 0), (0, 1))).astype(np.float32) * np.array([1, 1, 1, 0], np.float32)[:, None]
    return Batch(ids, mask, np.zeros_like(ids), targets, weight, np.arange(4, dtype=np.int32))


def loop(model, params, batch):
    """The mean over real sequences of the squared gradient of their summed nll, in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)

        def nll(params, row):
            logits = model.unembed(params, model.states(params, row, read=("tokens",)).tokens)
            logp = jax.nn.log_softmax(logits)
            return -jnp.sum(row.weight * jnp.take_along_axis(logp, row.targets[..., None], -1)[..., 0])

        gradient = jax.jit(jax.grad(nll))
        rows = [jax.tree.map(lambda values, at=at: jnp.asarray(values[at : at + 1]), batch) for at in range(3)]
        gradients = [flatten(gradient(wide, row)) for row in rows]
    return {path: sum(np.asarray(g[path]) ** 2 for g in gradients) / 3 for path in gradients[0]}


@pytest.mark.parametrize("case", CASES)
def test_fused_equals_a_loop_in_float64_on_every_leaf(case):
    model, params = random_model(case)
    batch = sequences()
    fisher = diagonal_fisher(model, TASK, params, [batch], jax.random.key(0), estimator="empirical").diagonal
    expected = loop(model, params, batch)
    tied = not any(path.startswith("unembed/kernel") for path in expected)
    assert tied == model.config.shape.tied
    for path, leaf in flatten(fisher).items():
        if path.endswith(KEY_BIASES) and not path.startswith("unembed"):
            continue
        if path.startswith(("heads/", "pooler/")):
            assert not np.any(leaf), path
            continue
        assert np.linalg.norm(expected[path]) > 0, f"{path} has no gradient: the comparison says nothing"
        error = np.linalg.norm(np.asarray(leaf) - expected[path]) / np.linalg.norm(expected[path])
        print(f"{case} {path} {error:.1e}")
        assert error <= 1e-5, (path, error)


@pytest.mark.parametrize("case", ["llama, tied", "gemma2", "bert, untied"])
def test_targets_are_drawn_at_each_position_of_the_datas_own_text(case):
    model, params = random_model(case)
    fused, vmapped = (
        flatten(diagonal_fisher(model, TASK, params, [sequences()], jax.random.key(7), draws=3, way=way).diagonal)
        for way in ("fused", "vmapped")
    )
    for path, leaf in vmapped.items():
        if not path.endswith(KEY_BIASES):
            assert np.linalg.norm(fused[path] - leaf) <= 1e-5 * np.linalg.norm(leaf), path
