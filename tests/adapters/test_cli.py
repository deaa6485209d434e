"""Adapters on the command line: export of a run's adapter, scoring on its base, and merging into it."""

import json

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import fft as package
from fft import models
from fft.core.tree import flatten
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import fft, record, tune


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A finished run of DoRA with EWC."""
    out = tmp_path_factory.mktemp("runs") / "dora+ewc"
    quick = ("--steps", 12, "--batch-size", 16, "--lr", 1e-2, "--tolerance", 1)
    assert tune(tiny, out, *quick, "--method", "dora+ewc", "--ewc.samples", 16).code == 0
    return out


@pytest.fixture(scope="module")
def adapter(run, tmp_path_factory):
    """The run's adapter in PEFT's files."""
    out = tmp_path_factory.mktemp("adapters") / "a"
    answer = fft("export", run, "--to", "peft", "--out", out, "--json")
    assert answer.code == 0 and answer.json["head"] == "new"
    return out


def predictions(folder, task, file, *flags):
    """The logits of `fft eval`, row by row."""
    assert fft("eval", "--model", folder, "--task", task, "--predictions", file, *flags, "--json").code == 0
    return [json.loads(line)["logits"] for line in file.read_text().splitlines()]


def test_peft_scores_the_exported_adapter_as_we_score_the_run(run, adapter, tiny, tmp_path):
    ours = np.array(predictions(run, tiny / "new.csv", tmp_path / "run.jsonl"))[:40]
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny / "bert", num_labels=3, ignore_mismatched_sizes=True
    )
    model = peft.PeftModel.from_pretrained(plain, adapter).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "bert")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    texts = [row.split(",")[0] for row in (tiny / "new.csv").read_text().splitlines()[1:41]]
    with torch.no_grad():
        theirs = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()), rtol=0)


def test_the_base_with_the_adapter_is_the_run_and_without_it_the_base(run, adapter, tiny, tmp_path):
    task, on = tiny / "new.csv", ("--adapter", adapter)
    assert predictions(tiny / "bert", task, tmp_path / "a", *on) == predictions(run, task, tmp_path / "b")
    old, head = tiny / "original.csv", ("--head", "original")
    moved = predictions(tiny / "bert", old, tmp_path / "c", *on, *head)
    assert moved == predictions(run, old, tmp_path / "d", *head) != predictions(tiny / "bert", old, tmp_path / "e")


def test_a_base_and_an_adapter_are_merged_into_a_checkpoint(run, adapter, tiny, tmp_path):
    answer = fft("export", tiny / "bert", "--adapter", adapter, "--out", tmp_path / "hf", "--json")
    assert answer.code == 0 and answer.json["head"] == "new"
    merged, kept = (load_file(folder / "model.safetensors") for folder in (tmp_path / "hf", run / "model"))
    assert merged.keys() == kept.keys()
    for name, value in kept.items():
        np.testing.assert_array_equal(merged[name], value, err_msg=name)


def test_a_run_of_biases_has_no_adapter(tiny, tmp_path):
    out = tmp_path / "bitfit"
    tune(tiny, out, "--method", "bitfit", "--steps", 2, "--tolerance", 1)
    answer = fft("export", out, "--to", "peft", "--out", tmp_path / "a", "--json")
    assert answer.code == 2 and "bitfit changes the base's own weights" in answer.json["error"]
    assert not (tmp_path / "a").exists()
    assert fft("export", out, "--out", tmp_path / "a").code == 0


def test_the_norms_of_a_run_are_an_adapter_wherever_norm_stands_in_its_chain(tiny, tmp_path):
    out, task = tmp_path / "norm", tiny / "new.csv"
    quick = ("--steps", 4, "--batch-size", 16, "--lr", 1e-2, "--tolerance", 1, "--keep", "latest")
    assert tune(tiny, out, *quick, "--method", "l2sp+norm").code == 0
    answer = fft("export", out, "--to", "peft", "--out", tmp_path / "a", "--json")
    assert answer.code == 0, answer.err
    ours = predictions(out, task, tmp_path / "run.jsonl")
    assert predictions(tiny / "bert", task, tmp_path / "on.jsonl", "--adapter", tmp_path / "a") == ours
    held = load_file(tmp_path / "a" / "adapter_model.safetensors")
    moved, base = load_file(out / "model" / "model.safetensors"), load_file(tiny / "bert" / "model.safetensors")
    norms = {name.removeprefix("base_model.model.").replace("ln_tuning_layers.", "") for name in held}
    changed = {name for name in moved if name in base and not np.array_equal(moved[name], base[name])}
    assert changed - {"classifier.weight", "classifier.bias"} <= norms and len(changed) > 4


def test_wrong_flags_and_folders_are_refused(run, adapter, tiny, tmp_path):
    out = ("--out", tmp_path / "x", "--json")
    for arguments, message in (
        (("export", run, "--to", "peft", "--adapter", adapter, *out), "--adapter is a PEFT adapter already"),
        (("export", tiny / "bert", "--adapter", adapter, "--step", "best", *out), "--step selects a step of a run"),
        (("export", tiny / "bert", "--adapter", run, *out), "has no adapter_config.json"),
        (("export", tiny / "bert", *out), "is a Hugging Face checkpoint already, no run: name a run"),
        (("export", run, "--to", "peft", "--head", "third", *out), "has no head third; its heads are: original, new"),
        (
            ("eval", "--model", tiny / "bert", "--task", tiny / "new.csv", "--adapter", tiny, "--json"),
            "has no adapter_",
        ),
    ):
        answer = fft(*arguments)
        assert answer.code == 2 and message in answer.json["error"], arguments
    assert not (tmp_path / "x").exists()


def test_a_method_that_changes_the_weights_at_the_end_has_no_adapter(run, tmp_path, monkeypatch):
    said = package.EWC().parts()._replace(finish=lambda base, params: jax.tree.map(lambda x: x / 2, params))
    monkeypatch.setattr(package.EWC, "parts", lambda self: said)
    answer = fft("export", run, "--to", "peft", "--out", tmp_path / "a", "--json")
    assert answer.code == 2 and "changes the merged weights at the end" in answer.json["error"]


@pytest.fixture(scope="module", params=["prompt", "prefix"])
def prompted(request, tiny, tmp_path_factory):
    """A finished run whose model is no checkpoint, and what `fft tune` printed."""
    out = tmp_path_factory.mktemp("runs") / request.param
    quick = ("--steps", 40, "--batch-size", 16, "--lr", 3e-2, "--tolerance", 1, "--keep", "latest")
    answer = tune(tiny, out, *quick, "--method", request.param, f"--{request.param}.tokens", 3)
    assert answer.code == 0 and f"adapter: {out}/adapter" in answer.err
    return request.param, out


def test_a_prompt_is_kept_as_base_and_adapter_and_scored_so(prompted, tiny, tmp_path):
    """eval of the run, eval of the base with what the run wrote, and the record agree."""
    _, out = prompted
    assert not (out / "model").exists() and (out / "adapter" / "adapter_config.json").is_file()
    task, old = tiny / "new.csv", tiny / "original.csv"
    run = predictions(out, task, tmp_path / "a")
    assert run == predictions(tiny / "bert", task, tmp_path / "b", "--adapter", out / "adapter")
    moved = predictions(out, old, tmp_path / "c", "--head", "original")
    assert moved != predictions(tiny / "bert", old, tmp_path / "d")
    assert fft("export", out, "--to", "peft", "--out", tmp_path / "peft").code == 0
    assert (tmp_path / "peft" / "adapter_model.safetensors").read_bytes() == (
        out / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_a_prompt_run_begins_at_the_base_and_learns(prompted, tiny):
    """The history's first entry is the base without the prompt, and only the prompt and the new head are trained."""
    kind, out = prompted
    found = record(out)
    trained = {row["path"] for row in found["parameters"]["table"] if row["trained"]}
    leaf = {"prompt": "prompt/tokens", "prefix": "prompt/prefix"}[kind]
    assert trained == {leaf, "heads/new/out/kernel", "heads/new/out/bias"}
    assert found["history"][0]["original"] == found["original"]["before"] == 1.0
    assert found["new"]["before"] is None and found["new"]["after"] > found["history"][1]["new"] + 0.1
    same = package.restore(out).params
    base = models.load(tiny / "bert").params
    for path, value in flatten(base).items():
        assert np.asarray(flatten(same)[path]).tobytes() == np.asarray(value).tobytes(), path


def test_what_needs_a_checkpoint_says_that_a_prompt_has_none(prompted, tiny, tmp_path):
    _, out = prompted
    for arguments, message in (
        (("export", out, "--to", "hf", "--out", tmp_path / "x"), "which no Hugging Face checkpoint holds"),
        (
            ("fisher", "--model", out, "--original", tiny / "original.csv", "--out", tmp_path / "x"),
            "this command needs a",
        ),
    ):
        answer = fft(*arguments, "--json")
        assert answer.code == 2 and message in answer.json["error"], arguments
    assert not (tmp_path / "x").exists()


def test_a_prompt_run_that_keeps_step_0_keeps_the_base(tiny, tmp_path):
    """With a tiny learning rate the untrained prompt is worse than the base, which is kept as a checkpoint."""
    quick = ("--steps", 2, "--batch-size", 16, "--lr", 1e-9, "--tolerance", 1, "--method", "prefix")
    new = tune(tiny, tmp_path / "run", *quick, "--head", "shared", new="original.csv", original="opposite.csv")
    assert new.json["kept_step"] == 0 and new.json["new"]["change"] == 0
    assert (tmp_path / "run" / "model").is_dir() and not (tmp_path / "run" / "adapter").exists()
    restored = flatten(package.restore(tmp_path / "run").params)
    assert restored.keys() == flatten(models.load(tmp_path / "run" / "model").params).keys()
    answer = fft("export", tmp_path / "run", "--to", "peft", "--out", tmp_path / "a", "--json")
    assert answer.code == 2 and "kept the base, step 0: there is no trained adapter" in answer.json["error"]


def test_a_prompt_that_cannot_be_kept_or_has_no_place_is_refused_before_anything_is_written(tiny, tmp_path):
    tiny_checkpoint.write_checkpoint(tmp_path / "distil", family="distilbert")
    for model, flags, message in (
        (tmp_path / "distil", ("--method", "prefix"), "PEFT computes no PREFIX_TUNING on distilbert and modernbert"),
        (
            tiny / "bert",
            ("--method", "prompt", "--prompt.tokens", 157),
            "157 virtual ones; this model has positions for 160",
        ),
        (tiny / "bert", ("--method", "prompt+mas"), "mas would have no effect: prompt with a new head changes no"),
        (tiny / "bert", ("--method", "freeze+prefix"), "freeze would have no effect: freeze+prefix trains nothing"),
    ):
        answer = tune(tiny, tmp_path / "run", *flags, "--steps", 2, model=model)
        assert answer.code == 2 and message in answer.json["error"], flags
        assert not (tmp_path / "run").exists()


def test_a_prompt_and_a_method_that_changes_merged_weights_are_refused_before_a_run(tiny, tmp_path):
    answer = tune(tiny, tmp_path / "run", "--method", "prompt+wise", "--steps", 2)
    assert answer.code == 2 and "wise changes merged weights at the end of a run" in answer.json["error"]
    assert not (tmp_path / "run").exists()
