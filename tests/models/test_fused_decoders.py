"""The fused Fisher pass equals the vmapped one on pre-norm models: RMS norms, grouped queries, gates, few biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Batch
from fft.core.tree import flatten, unflatten
from fft.fisher.diagonal import diagonal_fisher
from fft.models import FAMILIES
from fft.models.files.keys import expected_shapes
from fft.models.layers import RMSNorm
from fft.models.model import build
from fft.tasks import Classify

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 3,
}
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": 6}
MODELS = {
    "llama": {**GROUPED, "rms_norm_eps": 1e-3, "num_hidden_layers": 1},
    "gemma3_text": {**GROUPED, "sliding_window": 3, "sliding_window_pattern": 2, "query_pre_attn_scalar": 6},
    "granite": {**GROUPED, "num_hidden_layers": 1, "residual_multiplier": 0.22, "embedding_multiplier": 3.0},
    "olmo2": {**GROUPED, "num_hidden_layers": 1},
    "gpt2": {"vocab_size": 31, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 3},
    "modernbert": {**SIZES, "local_attention": 4, "classifier_pooling": "mean"},
}
TASK = Classify("original", ("a", "b", "c"))


def random_model(name):
    """(Model, random parameters with a head of three classes)."""
    family = FAMILIES[name]
    config = family.config(**MODELS[name])
    assert not list(config.problems())
    rng = np.random.default_rng(0)
    shapes = expected_shapes(family, config, {"original": 3})
    leaves = {path: jnp.asarray(rng.normal(0, 0.4, shape), jnp.float32) for path, shape in shapes.items()}
    return build(family, config), unflatten(leaves)


def padded_batch():
    """Rows with repeated ids, two of them padded, the last one filler."""
    rng = np.random.default_rng(1)
    mask = (np.arange(7)[None] < np.array([7, 5, 4, 7])[:, None]).astype(np.int32)
    ids = np.where(mask, rng.integers(4, 31, mask.shape), 3).astype(np.int32)
    ids[:, 2] = ids[:, 1]
    row = np.arange(4, dtype=np.int32)
    return Batch(ids, mask, np.zeros_like(ids), row % 3, np.array([1, 1, 1, 0], np.float32), row)


@pytest.mark.parametrize("name", MODELS)
def test_fused_equals_vmapped_on_every_leaf(name):
    model, params = random_model(name)
    arguments = (model, TASK, params, [padded_batch()], jax.random.key(0))
    fused, vmapped = (
        flatten(diagonal_fisher(*arguments, estimator="exact", way=way).diagonal) for way in ("fused", "vmapped")
    )
    assert fused.keys() == vmapped.keys() == flatten(params).keys()
    for path, expected in vmapped.items():
        if name == "gpt2" and path.endswith("attention/key/bias"):
            continue  # softmax does not see it where nothing is rotated
        assert np.linalg.norm(expected) > 0, f"{path} has no gradient: the comparison says nothing"
        assert np.linalg.norm(fused[path] - expected) <= 1e-5 * np.linalg.norm(expected), path


def test_rms_norm_keeps_the_dtype_of_its_input():
    x = jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)
    norm = RMSNorm(1e-6, 1.0)
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16 and norm.unscaled(x).dtype == jnp.float32
