"""Saved checkpoints: atomic, with several heads, readable by torch and by fft."""

import json
import resource
import shutil

import jax
import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from fft import models
from fft.core.errors import InputError, MachineError
from fft.core.tree import flatten
from tests.helpers import torch_models as oracle


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A saved BERT folder with a classifier and a tokenizer file."""
    folder = oracle.save(oracle.make("bert"), tmp_path_factory.mktemp("export") / "bert")
    (folder / "vocab.txt").write_text("[PAD]\n")
    return folder


def with_heads(checkpoint):
    """The checkpoint with two more heads: a classification and a regression."""
    heads = {**checkpoint.heads, "tweets": models.Head("classification", ("no", "yes", "ok"))}
    heads["stars"] = models.Head("regression", ())
    init = checkpoint.model.init_head
    params = {**checkpoint.params, "heads": dict(checkpoint.params["heads"])}
    params["heads"]["tweets"], params["heads"]["stars"] = init(jax.random.key(1), 3), init(jax.random.key(2), 1)
    return checkpoint._replace(params=params, heads=heads)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_several_heads_come_back_under_their_names(family, tmp_path):
    theirs = oracle.make(family, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    checkpoint = with_heads(models.load(oracle.save(theirs, tmp_path / "theirs")))
    back = models.load(models.save(checkpoint, tmp_path / "ours", primary="tweets"))
    assert back.primary == "tweets"
    assert back.heads == checkpoint.heads
    expected = flatten(checkpoint.params)
    assert flatten(back.params).keys() == expected.keys()
    for path, leaf in flatten(back.params).items():
        np.testing.assert_array_equal(leaf, expected[path])

    batch = oracle.batch(family)
    outputs = back.model.apply(back.params, batch)
    torch_model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert torch_model.config.id2label == {0: "no", 1: "yes", 2: "ok"}
    oracle.close(outputs["logits"]["tweets"], oracle.logits(torch_model, family, batch))
    oracle.close(outputs["logits"]["original"], oracle.logits(theirs, family, batch))
    alone = {"heads": {"stars": back.params["heads"]["stars"]}}
    oracle.close(back.model.readout(alone, "stars", outputs["pooled"]), outputs["logits"]["stars"])

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ours").iterdir()}
    assert len(set(modes.values())) == 1, f"who may read config.json may read the weights: {modes}"

    models.save(back, tmp_path / "stars", primary="stars")
    torch_model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stars").eval()
    assert torch_model.config.problem_type == "regression"
    oracle.close(outputs["logits"]["stars"], oracle.logits(torch_model, family, batch))


def test_files_and_config(source, tmp_path):
    saved = models.save(models.load(source), tmp_path / "out")
    assert sorted(contents(saved)) == ["config.json", "fft_heads.json", "model.safetensors", "vocab.txt"]
    raw = json.loads((saved / "config.json").read_text())
    assert raw["architectures"] == ["BertForSequenceClassification"]
    assert raw["dtype"] == "float32"
    assert raw["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}
    assert not {"_name_or_path", "torch_dtype", "num_labels"} & raw.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_without_heads(tmp_path):
    theirs = oracle.make("distilbert", "Model")
    saved = models.save(models.load(oracle.save(theirs, tmp_path / "theirs")), tmp_path / "ours")
    back = type(theirs).from_pretrained(saved)
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[name], value)
    assert models.load(saved).heads == {}


def test_shards_are_written_and_read(source, tmp_path):
    checkpoint = models.load(source)
    saved = models.save(checkpoint, tmp_path / "out", shard_bytes=10_000)
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in flatten(checkpoint.params).values())
    torch_model = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    batch = oracle.batch("bert")
    outputs = models.load(saved)
    outputs = outputs.model.apply(outputs.params, batch)
    oracle.close(outputs["logits"]["original"], oracle.logits(torch_model, "bert", batch))


def test_only_our_own_folder_is_replaced(source, tmp_path):
    checkpoint = models.load(source)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        models.save(checkpoint, tmp_path / "notes")
    assert contents(tmp_path / "notes") == {"thesis.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    first = models.save(checkpoint, tmp_path / "empty")
    changed = checkpoint._replace(params=jax.tree.map(lambda leaf: leaf + 1, checkpoint.params))
    models.save(changed, first)
    same = flatten(models.load(first).params)["pooler/bias"]
    np.testing.assert_array_equal(same, flatten(changed.params)["pooler/bias"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "notes"]
    own = models.load(first)
    models.save(own, own.folder)
    np.testing.assert_array_equal(flatten(models.load(first).params)["pooler/bias"], same)
    assert (first / "vocab.txt").exists()


def test_a_full_disk_changes_nothing(source, tmp_path):
    checkpoint = models.load(source)
    saved = models.save(checkpoint, tmp_path / "out")
    before = contents(saved)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(MachineError, match="could not be written"):
            models.save(checkpoint, tmp_path / "out")
        with pytest.raises(MachineError, match="could not be written"):
            models.save(checkpoint, tmp_path / "fresh")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(saved) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_places_that_cannot_be_written(source, tmp_path):
    checkpoint = models.load(source)
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="could not be written"):
        models.save(checkpoint, tmp_path / "file" / "out")
    with pytest.raises(InputError, match="is a file"):
        models.save(checkpoint, tmp_path / "file")


def test_heads_must_be_there_and_have_usable_names(source, tmp_path):
    checkpoint = models.load(source)
    with pytest.raises(InputError, match=r"no head 'tweets'.*original"):
        models.save(checkpoint, tmp_path / "out", primary="tweets")
    odd = checkpoint._replace(
        heads={"a/b": checkpoint.heads["original"]},
        params={**checkpoint.params, "heads": {"a/b": checkpoint.params["heads"]["original"]}},
    )
    with pytest.raises(InputError, match="a/b"):
        models.save(odd, tmp_path / "out")
    with pytest.raises(InputError, match="do not match"):
        models.save(checkpoint._replace(heads={}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_of_heads_that_no_longer_fits(source, tmp_path):
    saved = models.save(with_heads(models.load(source)), tmp_path / "out")
    record = (saved / "fft_heads.json").read_text()
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "copy" / "fft_heads.json").write_text(record.replace("LABEL_1", "other"))
    with pytest.raises(InputError, match="changed by another program"):
        models.load(tmp_path / "copy")
    (tmp_path / "copy" / "fft_heads.json").write_text('{"primary": "original"}')
    with pytest.raises(InputError, match="damaged"):
        models.load(tmp_path / "copy")
