"""Masked language modelling: the 80/10/10 rule, the loss of torch, and an encoder trained and held by it."""

import json
import random

import numpy as np
import pytest
import torch
import transformers

from fft import models
from fft.core.batch import NO_TARGET
from fft.data import TrainBatches, prepare
from fft.data.masking import MASKED, RANDOM, SHARE, Masking
from fft.data.settings import Data
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_chat import write_chat
from tests.helpers.tiny_checkpoint import with_mask
from tests.helpers.tiny_runs import fft, record, refused
from tests.helpers.torch_language import masked_bert

SHORT = ("--lr", "1e-2", "--epochs", 2, "--batch-size", 16, "--eval-every", 100)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random masked language model, texts of which half the words tell the other half, and rows of classes."""
    folder, rng = tmp_path_factory.mktemp("mlm"), random.Random(0)
    base = with_mask(folder / "base")
    network = masked_bert(len(tiny_checkpoint.vocabulary()), **tiny_checkpoint.WITHOUT_DROPOUT)
    network.bert.pooler = transformers.BertModel(network.config).pooler  # as in published checkpoints, for classifiers
    (base / "model.safetensors").unlink()
    network.save_pretrained(base)
    animals = tiny_checkpoint.ANIMALS
    blocks = [" ".join([rng.choice(animals)] * rng.choice([6, 9])) for _ in range(150)]
    (folder / "texts.csv").write_text("text\n" + "".join(f"{block} {at % 7}\n" for at, block in enumerate(blocks)))
    tiny_checkpoint.write_new(folder / "new.csv")
    return folder


@pytest.fixture(scope="module")
def learned(tiny):
    flags = ("--model", tiny / "base", "--new", tiny / "texts.csv", "--new.kind", "mlm", "--method", "full")
    answer = fft("tune", *flags, *SHORT, "--out", tiny / "run")
    assert answer.code == 0, answer.err
    return tiny / "run"


def test_hidden_tokens_are_learned_and_the_model_is_one_of_transformers(learned):
    told = record(learned)
    assert told["new"]["metric"] == "nats" and told["new"]["after"] < told["new"]["before"] - 0.3
    network = transformers.AutoModelForMaskedLM.from_pretrained(learned / "model")
    assert type(network).__name__ == "BertForMaskedLM"


def test_eval_gives_the_sums_of_torch(tiny, learned, tmp_path):
    source = tiny / "texts.csv"
    flags = ("--task", source, "--task.kind", "mlm", "--predictions", tmp_path / "p.jsonl", "--json")
    answer = fft("eval", "--model", learned, *flags)
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    checkpoint = models.load_language(learned / "model")
    data = prepare(
        Data(str(source), kind="mlm"), checkpoint, "unembed", checkpoint.head("unembed"), seed=0, max_length=None
    )
    network = transformers.AutoModelForMaskedLM.from_pretrained(learned / "model")
    found = {}
    for rows in data.splits.values():
        for ids, targets, number in zip(rows.ids, rows.targets, rows.numbers, strict=True):
            with torch.no_grad():
                logp = torch.log_softmax(network(torch.tensor(ids[None]).long()).logits[0].double(), -1)
            places = np.flatnonzero(targets != NO_TARGET)
            found[int(number)] = -logp[places, targets[places]].sum().item()
    assert len(lines) == len(found) == 150
    for line in lines:
        assert line["nll"] == pytest.approx(found[line["row"]], rel=1e-5)
    assert answer.json["score"] == pytest.approx(sum(found.values()) / sum(line["tokens"] for line in lines), rel=1e-6)


def test_the_rule_of_hidden_tokens():
    special, words = np.array([0, 1, 2]), np.arange(3, 50)
    text = np.array([1, *np.random.default_rng(0).integers(3, 50, 4000), 2], np.int32)
    masking = Masking([text], 0, special, words)
    ids, targets = masking.draw(0, np.random.default_rng(1))
    hidden = targets != NO_TARGET
    assert hidden.sum() == round(SHARE * 4000) and not hidden[[0, -1]].any()
    assert (targets[hidden] == text[hidden]).all() and (ids[~hidden] == text[~hidden]).all()
    masked, kept = (ids[hidden] == 0).mean(), (ids[hidden] == text[hidden]).mean()
    others = 1 - MASKED - RANDOM + RANDOM / len(words)  # a random token may be the right one
    assert abs(masked - MASKED) < 0.05 and abs(kept - others) < 0.04
    short = Masking([np.array([1, 7, 2], np.int32)], 0, special, words)
    assert (short.draw(0, np.random.default_rng(2))[1] != NO_TARGET).tolist() == [False, True, False]


def test_every_epoch_hides_other_tokens(tiny):
    checkpoint = models.load_language(tiny / "base")
    data = prepare(
        Data(str(tiny / "texts.csv"), kind="mlm"),
        checkpoint,
        "unembed",
        checkpoint.head("unembed"),
        seed=0,
        max_length=5,
    )
    rows = data.splits["train"]
    assert rows.example is not None, "texts of more than three words are cut into pieces"
    assert f"train: {len(rows.labels)} documents longer than 5 tokens, cut into {len(rows.ids)} pieces" in data.warnings
    batches = TrainBatches(rows, 8, 0, data.lengths, data.pad_id)
    first, again, later = (batches.batch(at) for at in (0, 0, len(batches)))
    assert (first.ids == again.ids).all() and (first.targets == again.targets).all()
    at, other = (batch.row.tolist() for batch in (first, later))
    common = set(at) & set(other)
    hidden = [
        {row: (batch.places[where], batch.ids[where]) for where, row in enumerate(batch.row.tolist())}
        for batch in (first, later)
    ]
    different = [any((a != b).any() for a, b in zip(hidden[0][row], hidden[1][row], strict=True)) for row in common]
    assert not common or any(different)


def test_a_classifier_is_learned_while_the_language_is_held(tiny, learned, tmp_path):
    held = ("--original", tiny / "texts.csv", "--original.kind", "mlm", "--max-drop", "0.1")
    flags = ("--model", learned / "model", "--new", tiny / "new.csv", "--method", "kl", *held, *SHORT)
    answer = fft("tune", *flags, "--out", tmp_path / "r")
    assert answer.code in (0, 1, 4), answer.err
    assert record(tmp_path / "r")["original"]["after"] == pytest.approx(record(learned)["new"]["after"], abs=0.2)


def test_kinds_that_do_not_fit_the_model_are_refused(tiny, tmp_path):
    chat = write_chat(tmp_path / "llama")
    task = ("--task", tiny / "texts.csv", "--task.kind")
    refused(fft("eval", "--model", chat, *task, "mlm"), "predicts the next token, not masked ones")
    refused(fft("eval", "--model", tiny / "base", *task, "text"), "give the kind mlm")
    refused(fft("eval", "--model", tiny / "base", *task, "mlm", "--metric", "bits_per_byte"), "counts every byte")
