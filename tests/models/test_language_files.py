"""Folders with a language head: other spellings, heads beside it, and what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertForPreTraining

from fft import models
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.models.files import hf, tensors
from fft.models.files.keys import rename
from tests.helpers import torch_language
from tests.helpers.next_token import next_token_nll
from tests.helpers.torch_language import TEXTS, close_slopes, forward

NORM, BIAS, LAST = "cls.predictions.transform.LayerNorm", "cls.predictions.bias", "cls.predictions.decoder"
WORDS = "bert.embeddings.word_embeddings.weight"
LABELS = np.array([0, 2, 1])


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function that returns (torch model, its folder) of a case."""
    made = {}

    def get(case):
        if case not in made:
            made[case] = torch_language.make(case), tmp_path_factory.mktemp("theirs")
            made[case][0].save_pretrained(made[case][1])
        return made[case]

    return get


def changed(folder, to, change=lambda stored: None, **config):
    """Copy a folder with changed tensors and fields of config.json."""
    shutil.copytree(folder, to)
    stored = load_file(to / "model.safetensors")
    change(stored)
    save_file(stored, to / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(raw | config))
    return to


def refused(message, folder, read=lambda folder: models.load(folder, language=True)):
    with pytest.raises(InputError, match=message):
        read(folder)


def logits_of(checkpoint):
    tokens = checkpoint.model.states(checkpoint.params, TEXTS, read=("tokens",)).tokens
    return np.asarray(checkpoint.model.unembed(checkpoint.params, tokens))


def close(checkpoint, expected):
    expected, real = expected.detach().numpy(), TEXTS.mask == 1
    assert np.abs(logits_of(checkpoint) - expected)[real].max() <= 1e-5 * max(1.0, np.abs(expected[real]).max())


def equal_trees(first, second):
    first, second = flatten(first), flatten(second)
    assert first.keys() == second.keys()
    for path, leaf in first.items():
        np.testing.assert_array_equal(leaf, second[path], err_msg=path)


def with_heads(checkpoint, **classes):
    """The checkpoint with fresh classification heads {name: C} beside those that it has."""
    heads = {name: models.Head("classification", tuple("abcd"[:size])) for name, size in classes.items()}
    drawn = {name: checkpoint.model.init_head(jax.random.key(size), size) for name, size in classes.items()}
    params = {**checkpoint.params, "heads": {**checkpoint.params.get("heads", {}), **drawn}}
    return checkpoint._replace(params=params, heads={**checkpoint.heads, **heads})


# --- spellings ---


def test_old_names_and_a_parameter_stored_twice(folder_of, tmp_path):
    theirs, folder = folder_of("bert")

    def old(stored):
        stored[f"{NORM}.gamma"], stored[f"{NORM}.beta"] = stored.pop(f"{NORM}.weight"), stored.pop(f"{NORM}.bias")
        stored[f"{LAST}.bias"], stored[f"{LAST}.weight"] = stored[BIAS].copy(), stored[WORDS].copy()

    close(models.load(changed(folder, tmp_path / "old", old), language=True), forward(theirs).logits)
    for name, change, message in (
        ("bias", lambda t: t.update({f"{LAST}.bias": t[BIAS] + 1}), "differ, but are one parameter"),
        ("norm", lambda t: t.update({f"{NORM}.beta": t[f"{NORM}.bias"] + 1}), "differ, but are one parameter"),
        (
            "last",
            lambda t: t.update({f"{LAST}.weight": t[WORDS] + 1}),
            "decoder.weight differs from the word embeddings",
        ),
        ("lost", lambda t: t.pop(f"{NORM}.bias"), r"no masked-language head: there is no .*LayerNorm\.bias"),
        ("shape", lambda t: t.update({BIAS: t[BIAS][:-1]}), r"cls\.predictions\.bias is \[60\], expected \[61\]"),
        ("more", lambda t: t.update({"extra.weight": t[BIAS]}), "no place for: extra.weight"),
        (
            "nan",
            lambda t: t.update({BIAS: t[BIAS] * np.nan}),
            r"cls\.predictions\.bias holds values that are not finite",
        ),
        ("words", lambda t: t.pop(WORDS), "lacks tensors for these parameters: embed/word/embedding"),
    ):
        refused(message, changed(folder, tmp_path / name, change))


def test_the_bias_of_an_untied_head_is_that_of_its_last_layer(folder_of, tmp_path):
    """transformers 4 stored it under the other name alone."""
    theirs, folder = folder_of("bert untied")
    stored = load_file(folder / "model.safetensors")
    assert not np.array_equal(stored[BIAS], stored[f"{LAST}.bias"])

    def of_version_4(stored):
        stored[BIAS] = stored.pop(f"{LAST}.bias")

    close(models.load(changed(folder, tmp_path / "4", of_version_4), language=True), forward(theirs).logits)


def test_a_model_for_pre_training_has_the_head_too(folder_of, tmp_path):
    theirs = BertForPreTraining(folder_of("bert")[0].config).eval()
    theirs.save_pretrained(tmp_path / "pre")
    checkpoint = models.load(tmp_path / "pre", language=True)
    mask = torch.tensor(TEXTS.mask).long()
    close(checkpoint, theirs(torch.tensor(TEXTS.ids).long(), attention_mask=mask).prediction_logits)
    assert "pooler" in checkpoint.params
    plain = models.load(tmp_path / "pre")
    assert plain.heads == {} and "unembed" not in plain.params
    with pytest.raises(InputError, match=r"this bert model have no language head: load them with .*language=True"):
        logits_of(plain)


def test_a_prefix_of_all_names_is_removed_with_a_note(folder_of, tmp_path):
    _, folder = folder_of("roberta")

    def wrap(stored):
        for name in list(stored):
            stored[f"module.{name}"] = stored.pop(name)

    wrapped = models.load(changed(folder, tmp_path / "wrapped", wrap), language=True)
    assert "begin with 'module.'" in wrapped.notes[0] and len(wrapped.notes) == 1
    equal_trees(wrapped.params, models.load(folder, language=True).params)


# --- what is refused ---


def test_files_that_disagree_are_refused(folder_of, tmp_path):
    _, folder = folder_of("llama untied")
    without = changed(folder, tmp_path / "without", lambda stored: stored.pop("lm_head.weight"))
    refused(r"no language head: there is no lm_head\.weight, and tie_word_embeddings is false", without)
    tied = changed(folder, tmp_path / "tied", tie_word_embeddings=True)
    refused(r"lm_head\.weight differs from the word embeddings, though", tied)

    def repeat(stored):
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"].copy()

    same = changed(folder, tmp_path / "same", repeat, tie_word_embeddings=True)
    assert "unembed" not in models.load(same, language=True).params
    untied = changed(folder_of("bert")[1], tmp_path / "untied", tie_word_embeddings=False)
    refused(r"no masked-language head: there is no cls\.predictions\.decoder\.weight, and tie_word_emb", untied)
    odd = changed(folder, tmp_path / "odd", tie_word_embeddings="no")
    refused("tie_word_embeddings must be true or false", odd)


def test_a_masked_language_model_is_found_without_its_weights(folder_of, tmp_path, minilm, monkeypatch):
    cases = {case: folder_of(case)[1] for case in torch_language.MASKED}
    ours = models.save(with_heads(models.load(cases["modernbert"], language=True), new=2), tmp_path / "ours")
    classifier = with_heads(models.load(cases["modernbert biases"], language=True), new=2)
    classifier = models.save(
        classifier._replace(language=False, params=body(classifier.params)), tmp_path / "classifier"
    )

    def unread(path):
        raise AssertionError(f"the weights in {path} were read")

    for module in (hf, tensors):
        monkeypatch.setattr(module, "read_tensors", unread)
    for folder in (*cases.values(), ours):
        assert models.find_masked(folder) == folder
    for folder, message in (
        (minilm, r"no masked-language head: there is no cls\.predictions\.transform\.dense\.weight"),
        (classifier, r"no masked-language head: there is no head\.dense\.weight"),
        (folder_of("llama")[1], "a llama model predicts the next token and has no masked-language head"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        refused(message, folder, models.find_masked)
    monkeypatch.undo()
    for folder in (minilm, classifier):
        refused("no masked-language head", folder)


def body(params):
    return {name: tree for name, tree in params.items() if name != "unembed"}


# --- other heads beside it ---


@pytest.mark.parametrize("case", ["llama", "llama untied", "gpt2 untied", "roberta", "modernbert", "modernbert untied"])
def test_it_stays_beside_classifiers(folder_of, case, tmp_path):
    checkpoint = with_heads(models.load(folder_of(case)[1], language=True), first=2, second=3)
    saved = models.save(checkpoint, tmp_path / "m", primary="second")
    again, plain = models.load(saved, language=True), models.load(saved)
    assert again.primary == plain.primary == "second" and again.heads == plain.heads == checkpoint.heads
    equal_trees(again.params, checkpoint.params)
    equal_trees(plain.params, body(checkpoint.params))
    np.testing.assert_array_equal(logits_of(again), logits_of(checkpoint))
    theirs, report = AutoModelForSequenceClassification.from_pretrained(saved, output_loading_info=True)
    assert theirs.config.num_labels == 3 and not any(report.values()), report
    headless = {name: tree for name, tree in again.params.items() if name != "heads"}
    alone = models.save(again._replace(params=headless, heads={}, primary=None), tmp_path / "alone")
    equal_trees(models.load(alone, language=True).params, headless)


@pytest.mark.parametrize("case", ["llama", "llama untied"])
def test_the_gradient_of_a_joint_loss_is_torchs_sum(folder_of, case, tmp_path):
    causal, folder = folder_of(case)
    checkpoint = with_heads(models.load(folder, language=True), new=3)
    scored = AutoModelForSequenceClassification.from_config(causal.config, attn_implementation="eager").eval()
    scored.model = causal.model
    kernel = np.array(checkpoint.params["heads"]["new"]["out"]["kernel"])
    scored.score.weight.data = torch.tensor(kernel.T)

    def loss(params):
        states = checkpoint.model.states(params, TEXTS, read=("tokens", "pooled"))
        nll, weight = next_token_nll(checkpoint.model.unembed(params, states.tokens), TEXTS.ids, TEXTS.mask)
        scores = jax.nn.log_softmax(checkpoint.model.readout(params, "new", states.pooled))
        score = -jnp.take_along_axis(scores, LABELS[:, None], axis=1).mean()
        return (weight * nll).sum() / weight.sum() + score

    found = flatten(jax.jit(jax.grad(loss))(checkpoint.params))
    given = torch.tensor(TEXTS.ids).long(), torch.tensor(TEXTS.mask).long()
    score = scored(*given, labels=torch.tensor(LABELS), use_cache=False).loss
    named = dict(causal.named_parameters()) | {"score.weight": scored.score.weight}
    slopes = torch.autograd.grad(forward(causal).loss + score, named.values())
    expected = {name: slope.numpy() for name, slope in zip(named, slopes, strict=True)}
    paths = rename(expected, models.FAMILIES["llama"], checkpoint.model.config, "new", "torch")
    close_slopes(found, expected, paths | ({"lm_head.weight": "unembed/kernel"} if "untied" in case else {}))
