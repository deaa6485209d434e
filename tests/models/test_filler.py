"""Masked-language heads against torch transformers, and errors for models without one."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from fft import models
from fft.core.errors import InputError
from tests.helpers import torch_models as oracle


def theirs(model, family, batch):
    """torch's logits [B, T, V]."""
    with torch.no_grad():
        return model(**oracle.inputs(family, batch)).logits.numpy()


def everywhere(batch):
    return np.broadcast_to(np.arange(batch.ids.shape[1], dtype=np.int32), batch.ids.shape)


@pytest.mark.parametrize("family", oracle.FAMILIES)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_masked_logits_are_torchs(family, activation, tmp_path):
    name = "activation" if family == "distilbert" else "hidden_act"
    model = oracle.make(family, "ForMaskedLM", **{name: activation})
    filler = models.load_filler(oracle.save(model, tmp_path / family))
    batch = oracle.batch(family)
    expected = theirs(model, family, batch)
    logits = jax.jit(filler.logits)(filler.params, batch, everywhere(batch))
    real = batch.mask > 0
    oracle.close(np.asarray(logits)[real], expected[real])
    some = np.array([[3, 1], [0, 2], [1, 1], [0, 1]], np.int32)
    picked = np.take_along_axis(expected, some[..., None], 1)
    oracle.close(filler.logits(filler.params, batch, some), picked)


def test_a_model_for_pre_training_has_the_head_too(tmp_path):
    model = oracle.make("bert", "ForPreTraining")
    folder = oracle.save(model, tmp_path / "pre")
    batch = oracle.batch("bert")
    with torch.no_grad():
        expected = model(**oracle.inputs("bert", batch)).prediction_logits.numpy()
    filler = models.load_filler(folder)
    oracle.close(filler.logits(filler.params, batch, everywhere(batch))[:1], expected[:1])
    assert models.load(folder).heads == {}, "models.load ignores the masked-language head"


def changed(folder, to, change):
    """Copy a folder with changed tensors."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_a_parameter_stored_twice_must_agree_and_old_names_are_read(tmp_path):
    model = oracle.make("bert", "ForMaskedLM")
    folder = oracle.save(model, tmp_path / "plain")
    norm, bias, last = "cls.predictions.transform.LayerNorm", "cls.predictions.bias", "cls.predictions.decoder"
    words = "bert.embeddings.word_embeddings.weight"

    def old(tensors):
        tensors[f"{norm}.gamma"], tensors[f"{norm}.beta"] = tensors.pop(f"{norm}.weight"), tensors.pop(f"{norm}.bias")
        tensors[f"{last}.bias"], tensors[f"{last}.weight"] = tensors[bias].copy(), tensors[words].copy()

    batch = oracle.batch("bert")
    filler = models.load_filler(changed(folder, tmp_path / "old", old))
    oracle.close(filler.logits(filler.params, batch, everywhere(batch))[:1], theirs(model, "bert", batch)[:1])

    for name, change, message in (
        ("bias", lambda t: t.update({f"{last}.bias": t[bias] + 1}), "differ, but are one parameter"),
        ("last", lambda t: t.update({f"{last}.weight": t[words] + 1}), "is not the word embeddings"),
        ("lost", lambda t: t.pop(f"{norm}.bias"), r"no masked-language head: there is no .*LayerNorm\.bias"),
        ("shape", lambda t: t.update({bias: t[bias][:-1]}), r"cls\.predictions\.bias is \[60\], expected \[61\]"),
        ("more", lambda t: t.update({"extra.weight": t[bias]}), "no place for: extra.weight"),
    ):
        with pytest.raises(InputError, match=message):
            models.load_filler(changed(folder, tmp_path / name, change))


def test_models_that_predict_no_masked_tokens_are_refused(tmp_path):
    folder = oracle.save(oracle.make("roberta"), tmp_path / "classifier")
    with pytest.raises(InputError, match=r"classifier has no masked-language head: there is no lm_head\.dense\.weight"):
        models.find_filler(folder)
    untied = oracle.save(oracle.make("bert", "ForMaskedLM"), tmp_path / "untied")
    raw = json.loads((untied / "config.json").read_text())
    (untied / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": False}))
    with pytest.raises(InputError, match="tie_word_embeddings is false"):
        models.find_filler(untied)
    with pytest.raises(InputError, match="does not exist"):
        models.find_filler(tmp_path / "nowhere")


def test_a_prefix_of_all_names_is_removed_with_a_note(tmp_path):
    folder = oracle.save(oracle.make("roberta", "ForMaskedLM"), tmp_path / "plain")

    def wrap(tensors):
        for name in list(tensors):
            tensors[f"module.{name}"] = tensors.pop(name)

    wrapped = models.load_filler(changed(folder, tmp_path / "wrapped", wrap))
    assert "begin with 'module.'" in wrapped.notes[0] and len(wrapped.notes) == 1
    jax.tree.map(np.testing.assert_array_equal, wrapped.params, models.load_filler(folder).params)
