"""The language head of decoders: logits, next-token loss, gradients and files against torch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from fft import models
from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.core.tree import flatten, unflatten
from fft.models.files.keys import LANGUAGE, UNEMBED, rename
from fft.tasks.next_token import next_token_nll
from tests.helpers.torch_decoders import FAMILIES, OWN_SIZES, SIZES, VARIANTS, texts

TEXTS = texts([12, 7, 3])
CASES = [(family, tied) for family in FAMILIES for tied in (True, False)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A function that returns (torch model, folder, our checkpoint) of a family, tied or not."""
    made = {}

    def get(family, tied):
        if (family, tied) not in made:
            given = {**OWN_SIZES.get(family, SIZES), **VARIANTS[family][0], "tie_word_embeddings": tied}
            config = CONFIG_MAPPING[family](**json.loads(json.dumps(given)))
            theirs = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in theirs.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            folder = tmp_path_factory.mktemp(family)
            theirs.save_pretrained(folder)
            made[family, tied] = theirs, folder, models.load(folder, language=True)
        return made[family, tied]

    return get


def logits_of(checkpoint, params, inputs=TEXTS):
    states = checkpoint.model.states(params, inputs, read=("tokens",))
    return checkpoint.model.unembed(params, states.tokens)


def forward(theirs):
    mask = torch.tensor(TEXTS.mask).long()
    labels = torch.tensor(TEXTS.ids).long().masked_fill(mask == 0, -100)
    return theirs(torch.tensor(TEXTS.ids).long(), attention_mask=mask, labels=labels, use_cache=False)


def loss_of(checkpoint, params):
    nll, weight = next_token_nll(logits_of(checkpoint, params), TEXTS.ids, TEXTS.mask)
    return jnp.sum(weight * nll) / jnp.sum(weight)


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_logits_loss_and_gradients(pair, family, tied):
    theirs, _, checkpoint = pair(family, tied)
    assert ("unembed" in checkpoint.params) == (not tied)
    answer = forward(theirs)
    expected, real = answer.logits.detach().numpy(), TEXTS.mask == 1
    ours = np.asarray(logits_of(checkpoint, checkpoint.params))
    assert np.abs(ours - expected)[real].max() <= 1e-5 * max(1.0, np.abs(expected[real]).max())
    value, slope = jax.jit(jax.value_and_grad(lambda params: loss_of(checkpoint, params)))(checkpoint.params)
    assert float(value) == pytest.approx(answer.loss.item(), rel=1e-5)

    named = dict(theirs.named_parameters())
    slopes = torch.autograd.grad(answer.loss, named.values())
    kind = models.FAMILIES[family]
    apart = kind.split({name: g.numpy() for name, g in zip(named, slopes, strict=True)})
    paths = rename(apart, kind, checkpoint.model.config, "original", "torch")
    paths |= {} if tied else {LANGUAGE: UNEMBED}
    found = flatten(slope)
    assert set(paths.values()) == set(found)
    largest = max(float(np.abs(g).max()) for g in apart.values())
    for name, path in paths.items():
        g = apart[name].T if path.endswith("/kernel") else apart[name]
        least = max(float(np.abs(g).max()), 0.01 * largest)
        assert np.abs(np.asarray(found[path]) - g).max() <= 1e-4 * least, path


def test_packed_texts_have_the_loss_of_separate_ones(pair):
    _, _, checkpoint = pair("llama", True)
    ids = np.concatenate([TEXTS.ids[1, :7], TEXTS.ids[2, :3], [0, 0]])[None]
    segments = np.repeat([[1] * 7 + [2] * 3 + [0] * 2], 1, axis=0).astype(np.int32)
    packed = Inputs(ids, segments, 0 * ids)
    nll, weight = next_token_nll(logits_of(checkpoint, checkpoint.params, packed), ids, segments)
    apart, weights = next_token_nll(logits_of(checkpoint, checkpoint.params), TEXTS.ids, TEXTS.mask)
    assert weight.tolist() == [[1.0] * 6 + [0.0] + [1.0] * 2 + [0.0] * 2] and weights.sum() == 11 + 6 + 2
    expected = np.concatenate([apart[1, :6], apart[2, :2]])
    np.testing.assert_allclose(nll[0][weight[0] > 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_transformers_loads_what_is_saved(pair, family, tied, tmp_path):
    theirs, _, checkpoint = pair(family, tied)
    saved = models.save(checkpoint, tmp_path / "m")
    again = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="eager").eval()
    assert type(again) is type(theirs)
    with torch.no_grad():
        np.testing.assert_array_equal(forward(again).logits.numpy(), forward(theirs).logits.numpy())
    leaves, found = flatten(checkpoint.params), flatten(models.load(tmp_path / "m", language=True).params)
    assert set(leaves) == set(found) and all((leaves[path] == found[path]).all() for path in leaves)


def test_the_language_head_stays_beside_a_classifier(pair, tmp_path):
    _, _, checkpoint = pair("llama", False)
    head = checkpoint.model.init_head(jax.random.key(0), 2)
    both = checkpoint._replace(
        params={**checkpoint.params, "heads": {"new": head}}, heads={"new": models.Head("classification", ("a", "b"))}
    )
    models.save(both, tmp_path / "m")
    plain, again = models.load(tmp_path / "m"), models.load(tmp_path / "m", language=True)
    assert "unembed" not in plain.params and again.primary == "new"
    assert (again.params["unembed"]["kernel"] == checkpoint.params["unembed"]["kernel"]).all()


def test_files_that_disagree_are_refused(pair, tmp_path):
    _, folder, checkpoint = pair("llama", False)
    without = unflatten({path: leaf for path, leaf in flatten(checkpoint.params).items() if path != UNEMBED})
    models.save(checkpoint._replace(params=without, language=False), tmp_path / "body")
    with pytest.raises(InputError, match=r"no language head: there is no lm_head\.weight, and tie_word_embeddings is"):
        models.load(tmp_path / "body", language=True)
    changed = tmp_path / "changed"
    changed.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, changed / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head\.weight differs from the word embeddings, though"):
        models.load(changed, language=True)
    tied = {**tensors, LANGUAGE: tensors["model.embed_tokens.weight"].copy()}
    save_file(tied, changed / "model.safetensors")
    assert "unembed" not in models.load(changed, language=True).params


def test_encoders_have_none(minilm):
    with pytest.raises(InputError, match="a bert model has no language head"):
        models.load(minilm, language=True)
