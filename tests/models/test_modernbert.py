"""ModernBERT against torch transformers' eager attention on random small configs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification

from fft import models
from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.models import dropout
from fft.models.families.modernbert import ModernBertConfig, join, split
from fft.models.files.keys import rename
from tests.helpers import torch_models as oracle

torch.set_num_threads(1)
PAD, LOCAL = 3, {"local_rope_theta": 20.0, "global_rope_theta": 300.0}
SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 32,
    "local_attention": 6,
    "pad_token_id": PAD,
    "attn_implementation": "eager",
    **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 4),
}
BIASES = {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}
VARIANTS = {
    "published": {"num_labels": 3},
    "biases": {
        **{**BIASES, **LOCAL},
        "num_labels": 5,
        "classifier_pooling": "mean",
        "global_attn_every_n_layers": 2,
        "local_attention": 5,
        "norm_eps": 1e-3,
        "hidden_activation": "gelu_pytorch_tanh",
        "classifier_activation": "relu",
    },
    "regression": {
        "num_labels": 1,
        "classifier_pooling": "mean",
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_attention_heads": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 3.0},
        "hidden_activation": "silu",
        "classifier_activation": "tanh",
    },
    "local": {
        "num_labels": 2,
        "attention_bias": True,
        "layer_types": ["sliding_attention"] * 2,
        "num_hidden_layers": 2,
        "local_attention": 1,
    },
}


def make(kind="ForSequenceClassification", **overrides):
    """A random torch model in eval mode with no parameter at a special value."""
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(**{**SIZES, **overrides})
    model = getattr(transformers, f"ModernBert{kind}")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1.0 + 0.2 * noise if "norm.weight" in name else 0.25 * noise)
    return model


def batch(side="right", tokens=11):
    """Rows of which two are padded, on one side."""
    rng = np.random.default_rng(0)
    mask = (np.arange(tokens)[None] < np.array([tokens, tokens - 2, 4])[:, None]).astype(np.int32)
    mask = mask if side == "right" else mask[:, ::-1].copy()
    ids = np.where(mask == 1, rng.integers(5, 61, mask.shape), PAD).astype(np.int32)
    return Inputs(ids, mask, np.zeros_like(ids))


def arguments(texts):
    return {"input_ids": torch.tensor(texts.ids).long(), "attention_mask": torch.tensor(texts.mask).long()}


def logits(model, texts):
    with torch.no_grad():
        return model(**arguments(texts)).logits.numpy()


def mean_loss(params, model, texts, label):
    got = model.apply(params, texts)["logits"]["original"]
    if got.shape[1] == 1:
        return jnp.mean((got[:, 0] - label) ** 2), got
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(got), label[:, None], axis=1)), got


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_gradients_and_saving(variant, tmp_path):
    theirs = make(**VARIANTS[variant])
    checkpoint = models.load(oracle.save(theirs, tmp_path / "theirs"))
    texts = batch()
    expected = logits(theirs, texts)
    classes = expected.shape[1]
    label = np.array([0.5, -1.0, 2.0], np.float32) if classes == 1 else np.array([0, 1, classes - 1], np.int32)
    slope = jax.jit(jax.grad(mean_loss, has_aux=True), static_argnums=1)
    gradients, got = slope(checkpoint.params, checkpoint.model, texts, label)
    oracle.close(got, expected)

    left = batch("left")
    oracle.close(slope(checkpoint.params, checkpoint.model, left, label)[1], logits(theirs, left))

    target = torch.tensor(label) if classes == 1 else torch.tensor(label).long()
    theirs(**arguments(texts), labels=target).loss.backward()
    named = split({name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()})
    paths = rename(named, models.FAMILIES["modernbert"], checkpoint.model.config, "original", "torch")
    ours = flatten(gradients)
    assert set(paths.values()) == set(ours)
    for name, path in paths.items():
        of_torch = named[name].T if path.endswith("/kernel") else named[name]
        if np.linalg.norm(of_torch) == 0:  # a token that attends only to itself needs no query
            assert np.linalg.norm(ours[path]) < 1e-6, path
            continue
        error = np.linalg.norm(ours[path] - of_torch) / np.linalg.norm(of_torch)
        assert error < 1e-4, (path, error)

    saved = models.save(checkpoint, tmp_path / "ours")
    back = AutoModelForSequenceClassification.from_pretrained(saved, attn_implementation="eager").eval()
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in theirs.state_dict().items())
    oracle.close(logits(back, texts), expected, 1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_states_are_those_of_the_bare_model(side, pooling, tmp_path):
    """Right-padded and left-padded rows, longer than the window; the pooled state alone is the same."""
    theirs = make("Model", classifier_pooling=pooling, local_attention=5, **LOCAL)
    checkpoint = models.load(oracle.save(theirs, tmp_path))
    assert checkpoint.heads == {} and checkpoint.primary is None
    texts = batch(side)
    with torch.no_grad():
        expected = theirs(**arguments(texts), output_hidden_states=True)
    got = checkpoint.model.states(checkpoint.params, texts, read=("pooled", "tokens"), layers=tuple(range(4)))
    last = expected.last_hidden_state.numpy()
    oracle.close(got.tokens, last)
    real = texts.mask[..., None]
    pooled = last[:, 0] if pooling == "cls" else (last * real).sum(1) / real.sum(1)
    oracle.close(got.pooled, pooled)
    oracle.close(checkpoint.model.states(checkpoint.params, texts).pooled, pooled)
    for depth in range(3):
        oracle.close(got.layers[depth], expected.hidden_states[depth].numpy())


def test_padding_changes_nothing(tmp_path):
    checkpoint = models.load(oracle.save(make(classifier_pooling="mean", num_hidden_layers=2), tmp_path))
    texts = batch()
    fill = Inputs(ids=PAD, mask=0, types=0)
    wider = jax.tree.map(lambda value, at: np.pad(value, ((0, 0), (0, 6)), constant_values=at), texts, fill)
    short, long = (checkpoint.model.apply(checkpoint.params, x)["logits"]["original"] for x in (texts, wider))
    oracle.close(long, short, 1e-6)


RATES = {"attention_dropout": 0.2, "mlp_dropout": 0.3, "embedding_dropout": 0.4, "classifier_dropout": 0.5}


@pytest.mark.parametrize("left_out", [None, *RATES])
def test_dropout_is_where_torch_has_it(left_out, tmp_path, monkeypatch):
    """Both sides multiply by 1 - rate wherever they would drop with that rate."""
    theirs = make(num_hidden_layers=2, **{name: rate for name, rate in RATES.items() if name != left_out})
    checkpoint = models.load(oracle.save(theirs, tmp_path))
    texts = batch()
    without = checkpoint.model.apply(checkpoint.params, texts)["logits"]["original"]
    monkeypatch.setattr(dropout, "drop", lambda x, rate, seed, salt: x * (1 - rate))
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, p=0.5, training=True, inplace=False: x * (1 - p))
    expected = logits(theirs.train(), texts)
    got = checkpoint.model.apply(checkpoint.params, texts, jax.random.key(0))["logits"]["original"]
    oracle.close(got, expected)
    assert np.abs(got - without).max() > 1e-3


def test_a_masked_language_model_has_no_classifier(tmp_path):
    folder = oracle.save(make("ForMaskedLM"), tmp_path / "masked")
    assert models.load(folder).heads == {} and not models.has_head(folder), "its first layers bear a classifier's names"
    with pytest.raises(InputError, match=r"no masked-language head: there is no head\.dense\.weight"):
        models.find_masked(oracle.save(make("Model"), tmp_path / "bare"))


def raw_of(folder, **changes):
    """Change fields of a config.json; None removes one."""
    raw = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))
    return folder


def test_old_and_new_spellings_of_rope_and_layer_types_are_one_model(tmp_path):
    new = oracle.save(make(num_labels=3, global_attn_every_n_layers=2, **LOCAL), tmp_path / "new")
    config = models.load(new).model.config
    assert set(dict(config.rope_parameters)) == {"full_attention", "sliding_attention"} and config.layer_types
    published = {"layer_norm_eps": 1e-5, "position_embedding_type": "absolute", "reference_compile": True}
    old = raw_of(new, rope_parameters=None, layer_types=None, global_attn_every_n_layers=2, **LOCAL, **published)
    spelled = models.load(old).model.config
    assert spelled.shape == config.shape and spelled.rope_parameters is spelled.layer_types is None
    thetas = [kind.rope.rope_theta for kind in config.shape.attention]
    assert thetas == [300.0, 20.0, 300.0] and [kind.window for kind in config.shape.attention] == [None, 4, None]
    default = ModernBertConfig().shape.attention
    assert [kind.rope.rope_theta for kind in default[:4]] == [160_000.0, 10_000.0, 10_000.0, 160_000.0]
    assert [kind.window for kind in default[:4]] == [None, 65, 65, None]


def nested(**full):
    return {"full_attention": {"rope_type": "default", "rope_theta": 160_000.0} | full}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier_pooling": "max"}, "classifier_pooling must be cls or mean, but is 'max'"),
        ({"norm_bias": "yes"}, "norm_bias must be true or false"),
        ({"hidden_activation": "swiglu"}, "hidden_activation must be a known activation"),
        ({"classifier_activation": "maxout"}, "classifier_activation must be a known activation"),
        ({"local_attention": 0}, "local_attention must be a positive integer"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers must be a positive integer"),
        ({"layer_types": ["full_attention"]}, "layer_types must be one of"),
        ({"mlp_dropout": 1.0}, "mlp_dropout must be a number in"),
        ({"sliding_window": 7}, "sliding_window are not known for model_type 'modernbert'"),
        ({"num_attention_heads": 5}, "the model width 24 is not a multiple of its 5 heads"),
        ({"num_attention_heads": 8}, "the head width 3 is odd"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters has rope_theta; expected full_attention"),
        ({"rope_parameters": {"full_attention": 5}}, r"rope_parameters\.full_attention must be an object"),
        ({"rope_parameters": nested(rope_type="axial")}, "rope_type 'axial' is not supported"),
        ({"rope_parameters": nested(partial_rotary_factor=0.5)}, "does not read partial_rotary_factor"),
        ({"rope_parameters": nested(), "global_rope_theta": 7.0}, "rope_theta is 160000.0, but global_rope_theta"),
        ({"rope_scaling": {"rope_type": "linear"}, "rope_parameters": None}, "rope_type 'linear' needs factor"),
    ],
)
def test_fields_that_are_not_computed_are_refused_by_name(changes, message, tmp_path, stored):
    for file in stored.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=message):
        models.load(raw_of(tmp_path, **changes))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The folder of a classifier."""
    return oracle.save(make(num_labels=3), tmp_path_factory.mktemp("stored"))


def test_fused_tensors_come_apart_and_together(stored):
    tensors = load_file(stored / "model.safetensors")
    apart = split(tensors)
    rows = tensors["model.layers.0.mlp.Wi.weight"]
    np.testing.assert_array_equal(apart["model.layers.0.mlp.gate.weight"], rows[: len(rows) // 2])
    back = join(apart)
    assert back.keys() == tensors.keys()
    jax.tree.map(np.testing.assert_array_equal, back, tensors)


def test_the_classifier_of_another_kind_of_model_is_refused(tmp_path):
    folder = oracle.save(make("ForTokenClassification", num_labels=3), tmp_path)
    with pytest.raises(InputError, match="not ModernBertForSequenceClassification"):
        models.load(folder)
