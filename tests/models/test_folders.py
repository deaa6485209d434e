"""Hints about wrong folders, and removal of a prefix that all names share."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fft import models
from fft.adapters import load_adapter
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.models.files.hf import wrapper_of
from fft.models.files.tensors import read_weights
from tests.helpers import tiny_checkpoint

FAMILIES = ("bert", "roberta", "distilbert")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """{family: the folder of a base}."""
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny_checkpoint.write_checkpoint(root / family, family) for family in FAMILIES}


def refused(folder, *parts, read=models.load):
    with pytest.raises(InputError) as caught:
        read(folder)
    for part in parts:
        assert part in str(caught.value), caught.value


# --- the wrong folder ---


def adapter_in(folder, base="base"):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    return folder


def test_the_checkpoints_below_a_folder_are_named(bases, tmp_path):
    trainer, hub, own = tmp_path / "trainer", tmp_path / "models--a--b", tmp_path / "own"
    for step in (12, 4):
        shutil.copytree(bases["bert"], trainer / f"checkpoint-{step}")
    (trainer / "runs").mkdir()
    refused(trainer, f"the checkpoints are in checkpoint-4/, checkpoint-12/: give one, such as {trainer}/checkpoint-12")
    shutil.copytree(bases["bert"], hub / "snapshots" / "0a1b")
    (hub / ".no_exist" / "0a1b").mkdir(parents=True)
    (hub / ".no_exist" / "0a1b" / "adapter_config.json").touch()
    refused(hub, f"the checkpoints are in snapshots/0a1b/: give one, such as {hub}/snapshots/0a1b")
    shutil.copytree(bases["bert"], own / "best")
    shutil.copytree(bases["bert"], own / ".cache")
    refused(own, f"{own} has no config.json; the checkpoints are in best/: give one, such as {own}/best")
    shutil.copy(own / "best" / "config.json", own)
    refused(own, f"no weights to load; the checkpoints are in best/: give one, such as {own}/best")
    assert models.has_head(own / "best")
    refused(tmp_path / "own" / "best" / "config.json", "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no config.json; expected a Hugging Face folder")


def test_an_adapter_is_no_model(bases, tmp_path):
    ours = adapter_in(tmp_path / "ours", bases["bert"])
    both = f"--model {bases['bert']} --adapter {ours}"
    refused(ours, f"{ours} is a PEFT adapter of {bases['bert']}, no model", both, f"export {bases['bert']} --adapter")
    (ours / "config.json").write_text('{"model_type": "bert"}')
    (ours / "adapter_model.bin").touch()
    refused(ours, both)
    for base in ("google/bert_uncased", "/home/me/base"):
        elsewhere = adapter_in(tmp_path / base.replace("/", "-"), base)
        refused(elsewhere, f"--model {base} --adapter", f"{base} is no folder here", "hf:OWNER/NAME")
    refused(adapter_in(tmp_path / "nameless", None), "is a PEFT adapter of BASE, no model", "--model BASE --adapter")
    adapter_in(tmp_path / "trained" / "checkpoint-8")
    refused(
        tmp_path / "trained", f"but PEFT adapters in checkpoint-8/: give one, such as {tmp_path}/trained/checkpoint-8"
    )


def test_a_run_is_no_model(bases, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(bases["bert"], run / "model")
    (run / "run.json").touch()
    refused(run, f"is a run of fft; the checkpoint that it left is {run}/model")
    shutil.rmtree(run / "model")
    adapter_in(run / "adapter")
    refused(run, "is a run of fft that left an adapter", f"fft eval --model base --adapter {run}/adapter")


def test_what_is_no_adapter(bases, tmp_path):
    base = models.load(bases["bert"])
    refused(
        bases["bert"],
        "has no adapter_config.json; it is a model, which --model takes",
        read=lambda f: load_adapter(f, base),
    )
    for name in ("a", "b"):
        adapter_in(tmp_path / "several" / name)
    hint = f"the adapters are in a/, b/: give one, such as {tmp_path}/several/b"
    refused(tmp_path / "several", hint, read=lambda folder: load_adapter(folder, base))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    refused(tmp_path / "run", "export", "--to peft", read=lambda folder: load_adapter(folder, base))


# --- one prefix of all names ---


def rename_tensors(source, folder, rename):
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    renamed = {rename(name): value for name, value in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "model.module."])
def test_one_prefix_of_all_names_is_removed_with_a_note(family, prefix, bases, tmp_path):
    folder = rename_tensors(bases[family], tmp_path / "wrapped", lambda name: prefix + name)
    loaded, expected = models.load(folder), models.load(bases[family])
    assert models.has_head(folder) and loaded.heads == expected.heads
    ours, theirs = flatten(loaded.params), flatten(expected.params)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    (note,) = loaded.notes
    assert f"{folder}: all" in note and f"begin with {prefix!r}; read without it" in note
    saved = models.save(loaded, tmp_path / "saved")
    assert read_weights(saved).keys() == read_weights(Path(bases[family])).keys()


@pytest.mark.parametrize("part", ["bert.", "classifier."])
def test_a_mixture_is_refused_by_the_names(part, bases, tmp_path):
    folder = rename_tensors(
        bases["bert"], tmp_path / "mixed", lambda name: f"_orig_mod.{name}" if name.startswith(part) else name
    )
    refused(folder, "has tensors a bert model has no place for: _orig_mod.")


def test_the_prefix_is_that_of_every_name():
    def prefix(*names, family="bert"):
        return wrapper_of(names, models.FAMILIES[family])

    assert prefix("module.model.a", "module.model.b") == "module.model."
    assert prefix("module.model.a", "module.b") == "module."
    assert prefix("module.a", "n_averaged") == prefix("bert.a") == prefix() == ""
    assert prefix("model.a", family="llama") == "" and prefix("module.model.a", family="llama") == "module."
