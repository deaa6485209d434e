"""A decoder goes through the whole product: a contract run, its files, and what is done with them afterwards."""

import csv
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fft
from fft.commands.cli import main
from tests.helpers.peft_adapters import with_peft
from tests.helpers.tiny_checkpoint import write_new, write_original
from tests.helpers.tiny_decoder import write_decoder

ROWS = 600


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    write_decoder(folder / "base")
    write_decoder(folder / "bare", head=False)
    write_original(folder / "original.csv", ROWS)
    write_new(folder / "new.csv", ROWS)
    return folder


@pytest.fixture(scope="module")
def kept(tiny):
    data = {"new": str(tiny / "new.csv"), "original": str(tiny / "original.csv")}
    run = fft.tune(tiny / "base", **data, out=tiny / "kept", epochs=4, lr=1e-2, max_drop="0.04", verbose=False)
    return tiny / "kept", run.record


def test_a_contract_is_kept_and_the_new_task_learnt(kept):
    _, record = kept
    assert record["contract"]["met"] and record["original"]["before"] > 0.95
    assert record["original"]["after"] >= record["original"]["before"] - 0.04 and record["new"]["after"] > 0.6


def test_transformers_gives_the_logits_of_the_exported_model(tiny, kept, tmp_path):
    folder, _ = kept
    assert main(["export", str(folder), "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    answers = tmp_path / "answers.jsonl"
    task = ["--task", str(tiny / "new.csv"), "--predictions", str(answers)]
    assert main(["eval", "--model", str(tmp_path / "hf"), *task]) == 0
    ours = [json.loads(line)["logits"] for line in answers.read_text().splitlines()]
    with (tiny / "new.csv").open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        for text, logits in list(zip(texts, ours, strict=True))[:8]:
            expected = network(**tokenizer(text, return_tensors="pt")).logits[0].numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(("method", "lr"), [("prompt", 3e-2), ("prefix", 1e-1)])
def test_virtual_tokens_are_trained_and_peft_computes_the_same(tiny, tmp_path, method, lr):
    """Without padding, as peft reads the last place of a row with virtual tokens."""
    run, answers = tmp_path / "run", tmp_path / "answers.jsonl"
    data = {"new": str(tiny / "new.csv"), "original": str(tiny / "original.csv")}
    record = fft.tune(tiny / "base", **data, method=method, out=run, epochs=4, lr=lr, verbose=False).record
    assert record["new"]["after"] > 0.5 and record["history"][0]["original"] == record["original"]["before"]
    task = ["--task", str(tiny / "new.csv"), "--predictions", str(answers)]
    assert main(["eval", "--model", str(run), *task]) == 0
    found = answers.read_text()
    assert main(["export", str(run), "--to", "peft", "--out", str(tmp_path / "a")]) == 0
    assert main(["eval", "--model", str(tiny / "base"), "--adapter", str(tmp_path / "a"), *task]) == 0
    assert answers.read_text() == found
    plain = AutoModelForSequenceClassification.from_pretrained(
        tiny / "base", num_labels=3, ignore_mismatched_sizes=True
    )
    network, tokenizer = with_peft(plain, tmp_path / "a"), AutoTokenizer.from_pretrained(tiny / "base")
    with (tiny / "new.csv").open() as file, torch.no_grad():
        for row, line in list(zip(csv.DictReader(file), found.splitlines(), strict=True))[:8]:
            expected = network(**tokenizer(row["text"], return_tensors="pt")).logits[0].numpy()
            ours = json.loads(line)["logits"]
            np.testing.assert_allclose(ours, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(
    "command",
    [
        "check {base} {kept} --original {original}",
        "diagnose {base} {kept} --original {original} --out {out}",
        "repair {base} {kept} --original {original} --new {new} --max-drop .1 --out {out}",
        "merge {base} {kept} --how interpolate --alpha .5 --out {out}",
        "fisher --model {base} --original {original} --samples 32 --out {out}",
        "tune --model {bare} --new {new} --method lora --lora.targets all-linear --epochs 1 --out {out}",
    ],
    ids=lambda command: command.split()[0],
)
def test_the_other_commands_take_a_decoder(tiny, kept, tmp_path, command, capsys):
    names = {name: tiny / name for name in ("base", "bare", "kept")}
    data = {name: tiny / f"{name}.csv" for name in ("new", "original")}
    code = main([part.format(**names, **data, out=tmp_path / "out") for part in command.split()])
    assert code in (0, 3, 4), capsys.readouterr().err
    assert code == 0, capsys.readouterr().err
