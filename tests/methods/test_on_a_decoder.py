"""Methods on a decoder, where its mathematics differ: RMSNorms, grouped queries, a gate, no biases, one place read.

The contract of all methods is shown on a toy model in test_methods.py, the Fisher pass in test_fused_decoders.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.tree import flatten, unflatten
from fft.methods import GPM, IA3, BitFit, Freeze, Layerwise, LoRA, NormTuning, StepContext, parse_chain
from fft.models import FAMILIES
from fft.models.files.keys import expected_shapes
from fft.models.layers import Dense
from fft.models.model import build
from fft.training.optim import multipliers
from tests.helpers.methods import Subject, check_promises, trained

PAD, VOCABULARY, TOKENS = 3, 31, 5
FAMILY = FAMILIES["qwen3"]
CONFIG = FAMILY.config(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=16,
    pad_token_id=PAD,
)
MODEL = build(FAMILY, CONFIG)
LINEAR = [f"attention/{name}" for name in ("query", "key", "value", "out")] + ["mlp/gate", "mlp/up", "mlp/down"]
LINEAR = [f"layers/{i}/{name}" for i in range(2) for name in LINEAR]


def rows(seed, count=8, filler=0):
    """Rows of which every second one is padded; the last ones are filler."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(TOKENS) < np.where(np.arange(count) % 2, TOKENS, TOKENS - 2)[:, None]).astype(np.int32)
    ids = np.where(mask, rng.integers(PAD + 1, VOCABULARY, mask.shape), PAD).astype(np.int32)
    row = np.arange(count, dtype=np.int32)
    weight = (row < count - filler).astype(np.float32)
    return Batch(ids, mask, np.zeros_like(ids), row % 3, weight, row)


ROWS = rows(50, filler=5)  # three rows count
DECODER = Subject(
    MODEL, MODEL, lambda: ROWS, lambda stream, seed: rows(seed if stream == "new" else 50, filler=2 * (stream != "new"))
)


@pytest.fixture
def base():
    rng = np.random.default_rng(0)
    shapes = expected_shapes(FAMILY, CONFIG, {"original": 3, "new": 3})
    noise = {path: rng.normal(0, 0.4, shape) for path, shape in shapes.items()}
    return unflatten({path: jnp.asarray(x + path.endswith("/scale"), jnp.float32) for path, x in noise.items()})


def logits(params, batch=ROWS):
    return np.asarray(MODEL.apply(params, batch)["logits"]["original"])


@pytest.mark.parametrize("names", ["lora+ewc", "norm+ogd"])
def test_contract(names, base, tmp_path):
    check_promises(parse_chain(names), base, tmp_path, DECODER)


def test_gpm_leaves_the_answers_of_the_protected_rows(base):
    """The inputs of every layer, without a bias to extend them, span all that three short rows give it."""
    state, *_ = trained(GPM(threshold=1.0), base, steps=4, lr=0.02, weight_decay=0.1, subject=DECODER)
    before, after = logits(base), logits(state.theta)
    np.testing.assert_allclose(after[:3], before[:3], atol=2e-4 * np.abs(before).max())
    assert np.abs(after[3:] - before[3:]).max() > 0.05 * np.abs(before).max(), "answers of other rows are free"
    moved = {path for path, leaf in flatten(state.theta).items() if not (leaf == flatten(base)[path]).all()}
    assert {f"{layer}/kernel" for layer in LINEAR} < moved and not [path for path in moved if "norm" in path]


def test_ia3_rescales_outputs_of_keys_and_values_and_the_input_behind_the_gate(base):
    """Against the forward pass in which the layers' inputs and outputs are multiplied as it runs."""
    method, rng = IA3(), np.random.default_rng(1)
    theta = flatten(method.init(base, jax.random.key(0)))
    shapes = {path: leaf.shape for path, leaf in theta.items() if "ia3" in path}
    assert set(shapes.values()) == {(12,), (24,)}, "two heads of keys and values of 6, an MLP of 24"
    theta |= {path: jnp.asarray(rng.uniform(0.5, 2, shape), jnp.float32) for path, shape in shapes.items()}

    def stretched(run, args, kwargs, context):
        path = "/".join(context.module.path)
        if not isinstance(context.module, Dense):
            return run(*args, **kwargs)
        x = args[0] * theta.get(f"{path}/ia3_in", 1.0)
        return run(x, *args[1:], **kwargs) * theta.get(f"{path}/ia3_out", 1.0)

    with nn.intercept_methods(stretched):
        expected = logits(base)
    merged = logits(method.merge(base, unflatten(theta)))
    np.testing.assert_allclose(merged, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(merged - logits(base)).max() > 0.05 * np.abs(expected).max()


def test_the_gate_is_a_role(base):
    assert LoRA(targets="gate").modules(flatten(base)) == ["layers/0/mlp/gate", "layers/1/mlp/gate"]
    with pytest.raises(InputError, match=r"--lora.targets 'gate' matches none of the 12 linear layers"):
        LoRA(targets="gate").modules(path for path in flatten(base) if "gate" not in path)


def test_lora_beside_every_linear_layer_equals_lora_in_the_kernels(base):
    beside, within = (LoRA(rank=2, targets="all-linear", factored=form, merged=not form) for form in (True, False))
    assert sorted(within.modules(flatten(base))) == sorted(LINEAR)
    rng = np.random.default_rng(2)
    start = flatten(within.init(base, jax.random.key(0)))
    theta = unflatten({p: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for p, leaf in start.items()})
    expected = logits(within.merge(base, theta))
    found = logits(beside.inject(StepContext(base), theta, jax.random.key(0)))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(found - logits(base)).max() > 0.05 * np.abs(expected).max()


def test_rates_by_depth_freezing_and_norms_find_the_parameters_of_a_decoder(base):
    rates = multipliers(Layerwise(decay=0.5), base, MODEL.depth)
    assert rates["embed/word/embedding"] == 0.5**3 and rates["layers/0/attention/query_norm/scale"] == 0.5**2
    assert rates["layers/1/mlp/gate/kernel"] == 0.5 and rates["final_norm/scale"] == 1.0
    frozen = {path for path, rate in multipliers(Freeze(blocks=1), base, MODEL.depth).items() if rate == 0}
    assert frozen == {path for path in flatten(base) if path.startswith(("embed/", "layers/0/"))}
    trained_norms = {path for path, rate in multipliers(NormTuning(), base, MODEL.depth).items() if rate}
    assert trained_norms == {path for path in flatten(base) if path.endswith("/scale") or path.startswith("heads/")}


def test_bitfit_says_that_there_are_no_biases(base):
    with pytest.raises(InputError, match="no such parameters, as most decoders have no biases"):
        multipliers(BitFit(), base, MODEL.depth)
