"""Loading of the checkpoints in use; everything else is refused with an error that names a remedy."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fft import models
from fft.core.errors import InputError, MachineError
from fft.core.tree import flatten
from fft.models.files import tensors as stored
from tests.helpers import torch_models as oracle


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One saved folder with a classifier per family."""
    root = tmp_path_factory.mktemp("sources")
    return {family: oracle.save(oracle.make(family), root / family) for family in oracle.FAMILIES}


@pytest.fixture
def folder(sources, tmp_path):
    """A copy of the BERT folder that a test may change."""
    return shutil.copytree(sources["bert"], tmp_path / "bert")


def change_tensors(folder, change):
    """Rewrite model.safetensors with the dict `change(tensors)`."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **fields):
    """Set fields of config.json; None deletes one."""
    raw = json.loads((folder / "config.json").read_text())
    raw.update(fields)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))


def same_params(first, second):
    ours, theirs = flatten(first), flatten(second)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path])


def refused(folder, *parts, error=InputError):
    with pytest.raises(error) as caught:
        models.load(folder)
    for part in parts:
        assert part in str(caught.value), caught.value


def test_paths_and_heads(sources):
    checkpoint = models.load(sources["bert"])
    paths = flatten(checkpoint.params)
    assert paths["embed/word/embedding"].shape == (61, 48)
    assert paths["layers/1/mlp/up/kernel"].shape == (48, 96)
    assert paths["heads/original/out/kernel"].shape == (48, 2)
    assert {"embed/norm/scale", "layers/0/attention_norm/bias", "pooler/kernel"} <= paths.keys()
    assert {leaf.dtype.name for leaf in paths.values()} == {"float32"}
    assert checkpoint.heads == {"original": models.Head("classification", ("LABEL_0", "LABEL_1"))}
    assert checkpoint.primary == "original"
    assert checkpoint.model.depth == 2
    assert {"heads/original/dense/bias"} <= flatten(models.load(sources["roberta"]).params).keys()
    assert models.load(sources["roberta"]).model.config.max_positions == 24 - 2


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_spare_tensors_are_left_out(sources, family, tmp_path):
    folder = shutil.copytree(sources[family], tmp_path / "spare")
    spare = {
        "bert": ["bert.embeddings.position_ids", "cls.predictions.bias", "cls.seq_relationship.weight"],
        "roberta": ["roberta.embeddings.position_ids", "lm_head.dense.weight", "roberta.pooler.dense.weight"],
        "distilbert": ["vocab_transform.weight", "vocab_layer_norm.bias", "vocab_projector.weight"],
    }[family]
    change_tensors(folder, lambda tensors: {**tensors, **{name: np.arange(3) for name in spare}})
    same_params(models.load(folder).params, models.load(sources[family]).params)


def test_old_spellings(sources, folder):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def age(tensors):
        for new, gone in old.items():
            tensors = {name.replace(new, gone).removeprefix("bert."): value for name, value in tensors.items()}
        return tensors

    change_tensors(folder, age)
    assert "embeddings.LayerNorm.gamma" in load_file(folder / "model.safetensors")
    same_params(models.load(folder).params, models.load(sources["bert"]).params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32_and_is_remembered(sources, folder, dtype, tmp_path):
    change_tensors(folder, lambda tensors: {name: value.astype(dtype) for name, value in tensors.items()})
    checkpoint = models.load(folder)
    assert checkpoint.raw_config["dtype"] == dtype
    for path, leaf in flatten(checkpoint.params).items():
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, flatten(models.load(sources["bert"]).params)[path].astype(dtype), path)
    saved = models.save(checkpoint, tmp_path / "saved")
    assert {value.dtype.name for value in load_file(saved / "model.safetensors").values()} == {dtype}
    assert json.loads((saved / "config.json").read_text())["dtype"] == dtype


def test_shards(sources, tmp_path):
    sharded = oracle.save(oracle.make("bert"), tmp_path / "shards", max_shard_size="10KB")
    assert not (sharded / "model.safetensors").exists()
    same_params(models.load(sharded).params, models.load(sources["bert"]).params)
    shard = min(sharded.glob("model-*.safetensors"))
    tensors = load_file(shard)
    save_file({name: tensors[name] for name in list(tensors)[1:]}, shard)
    refused(sharded, "disagree", next(iter(tensors)))
    shard.unlink()
    refused(sharded, shard.name)


def test_has_head_reads_no_weights(sources, tmp_path, monkeypatch):
    cases = {sources[family]: True for family in oracle.FAMILIES}
    cases |= {oracle.save(oracle.make(family, "Model"), tmp_path / family): False for family in oracle.FAMILIES}
    cases[oracle.save(oracle.make("bert", "ForMaskedLM"), tmp_path / "filler")] = False
    cases[oracle.save(oracle.make("bert"), tmp_path / "shards", max_shard_size="20KB")] = True
    checkpoint = models.load(sources["roberta"])
    headless = {name: tree for name, tree in checkpoint.params.items() if name != "heads"}
    cases[models.save(checkpoint, tmp_path / "ours")] = True
    cases[models.save(checkpoint._replace(params=headless, heads={}, primary=None), tmp_path / "bare")] = False
    assert (tmp_path / "shards" / stored.INDEX).exists() and (tmp_path / "bare" / "fft_heads.json").exists()

    def unread(path):
        raise AssertionError(f"the weights in {path} were read")

    monkeypatch.setattr(stored, "read_tensors", unread)
    for folder, expected in cases.items():
        assert models.has_head(folder) is expected, folder
    with pytest.raises(InputError, match="does not exist"):
        models.has_head(tmp_path / "nowhere")


def test_labels_and_regression(folder):
    change_config(folder, id2label={"0": "bad", "1": "good"})
    assert models.load(folder).heads["original"].labels == ("bad", "good")
    change_config(folder, id2label={"0": "bad", "2": "good"})
    refused(folder, "id2label")
    change_config(folder, id2label={"0": "bad", "1": "bad"})
    refused(folder, "id2label", "bad")
    change_config(folder, id2label={"0": "bad", "1": "good"}, problem_type="multi_label_classification")
    refused(folder, "multi_label_classification")
    change_config(folder, id2label={"0": "score"}, problem_type=None)
    refused(folder, "classifier.weight", "[2, 48]", "[1, 48]")


def test_num_labels_without_names(folder):
    change_config(folder, id2label=None, label2id=None, num_labels=2)
    assert models.load(folder).heads["original"].labels == ("LABEL_0", "LABEL_1")
    change_config(folder, num_labels="2")
    refused(folder, "num_labels", "'2'")


def test_a_classifier_of_another_kind_is_not_ours(folder):
    change_config(folder, architectures=["BertForTokenClassification"])
    refused(folder, "BertForTokenClassification", "BertForSequenceClassification")


def test_missing_extra_and_misshapen_tensors(folder, sources):
    def without(*gone):
        return lambda tensors: {name: value for name, value in tensors.items() if name not in gone}

    change_tensors(folder, lambda t: {**t, **{f"adapter.{i}": np.zeros(2, np.float32) for i in range(14)}})
    refused(folder, "adapter.0", "4 more (14 in all)")
    shutil.copytree(sources["bert"], folder, dirs_exist_ok=True)
    change_tensors(folder, without("bert.encoder.layer.1.output.dense.bias"))
    refused(folder, "layers/1/mlp/down/bias")
    shutil.copytree(sources["bert"], folder, dirs_exist_ok=True)
    change_tensors(folder, without("bert.pooler.dense.bias", "bert.pooler.dense.weight"))
    refused(folder, "pooler/bias", "masked language model", "save_pretrained")
    shutil.copytree(sources["bert"], folder, dirs_exist_ok=True)
    change_tensors(folder, without("classifier.weight", "classifier.bias"))
    refused(folder, "declares a classifier")
    shutil.copytree(sources["bert"], folder, dirs_exist_ok=True)
    change_tensors(folder, lambda t: {**t, "bert.pooler.dense.bias": np.zeros(47, np.float32)})
    refused(folder, "bert.pooler.dense.bias", "[47]", "[48]")
    shutil.copytree(sources["bert"], folder, dirs_exist_ok=True)
    change_tensors(folder, lambda t: {**t, "bert.pooler.dense.bias": np.zeros(48, np.int8)})
    refused(folder, "bert.pooler.dense.bias", "int8")
    shutil.copytree(sources["bert"], folder, dirs_exist_ok=True)
    change_tensors(folder, lambda t: {**t, "pooler.dense.bias": np.zeros(48, np.float32)})
    refused(folder, "twice", "pooler.dense.bias")


@pytest.mark.parametrize(
    ("field", "value", "parts"),
    [
        ("is_decoder", True, ["is_decoder", "False"]),
        ("position_embedding_type", "relative_key", ["relative_key", "absolute"]),
        ("hidden_act", "xielu", ["xielu", "gelu_new"]),
        ("hidden_act", {"name": "gelu"}, ["activation"]),
        ("auto_map", {"AutoModel": "evil.py"}, ["auto_map"]),
        ("hidden_dropout_prob", 1.5, ["hidden_dropout_prob", "1.5"]),
        ("num_attention_heads", 5, ["48", "5 heads"]),
        ("vocab_size", "61", ["vocab_size", "'61'"]),
        ("layer_norm_eps", 0, ["layer_norm_eps"]),
        ("pad_token_id", 61, ["pad_token_id", "61"]),
        ("model_type", "t5", ["t5", "bert, distilbert, gemma"]),
        ("model_type", None, ["model_type"]),
        ("hidden_size", 10**400, ["hidden_size", "at most 100,000,000"]),
        ("vocab_size", 10**12, ["vocab_size", "at most 100,000,000"]),
        ("max_position_embeddings", 10**12, ["max_position_embeddings", "at most 100,000,000"]),
        ("num_hidden_layers", 10**9, ["num_hidden_layers", "at most 1,000"]),
        ("num_hidden_layers", 3, ["layers/2/attention/key/bias", "more"]),
    ],
)
def test_config_is_read_against_an_allow_list(folder, field, value, parts):
    change_config(folder, **{field: value})
    refused(folder, "bert", *parts)


def test_harmless_metadata_is_accepted(folder):
    change_config(folder, transformers_version="4.8.2", gradient_checkpointing=False, top_k=50, use_cache=True)
    models.load(folder)


OLD = {
    "eos_token_ids": 0,
    "vocab_size_or_config_json_file": -1,
    "adapters": {"adapters": {}, "config_map": {}, "fusion_config_map": {}, "fusions": {}},
    "prediction_heads": {},
    "custom_heads": {},
    "structure": [],
    "pre_trained": "",
    "xla": False,
    "num_choices": None,
}


@pytest.mark.parametrize("family", oracle.FAMILIES)
def test_fields_of_old_versions_are_read_and_a_note_names_empty_unknown_ones(sources, family, tmp_path):
    folder = shutil.copytree(sources[family], tmp_path / "old")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | OLD))
    checkpoint = models.load(folder)
    same_params(checkpoint.params, models.load(sources[family]).params)
    (note,) = checkpoint.notes
    named = "adapters, custom_heads, num_choices, pre_trained, prediction_heads, structure, xla"
    assert note.startswith(f"{folder / 'config.json'}: the unknown field(s) {named} are null, false or empty")
    assert models.load(models.save(checkpoint, tmp_path / "saved")).notes[0].startswith(str(tmp_path / "saved"))
    assert models.load(sources[family]).notes == ()


def test_the_old_name_of_the_vocabulary_may_repeat_it(folder):
    for same in (61, -1):
        change_config(folder, vocab_size_or_config_json_file=same)
        assert models.load(folder).notes == ()
    change_config(folder, vocab_size_or_config_json_file=62)
    refused(folder, "vocab_size_or_config_json_file is 62; only -1 or 61")


def test_all_errors_of_a_config_are_one_message(folder):
    change_config(
        folder,
        adapters={"adapters": {"qa": "pfeiffer"}, "config_map": {}},
        temperatures=[1.0],
        custom_heads={},
        zeros=0,
        is_decoder=True,
        hidden_dropout_prob=2,
        vocab_size_or_config_json_file="x",
    )
    refused(folder, "field(s) adapters, temperatures, zeros are not known", "is_decoder is True", "delete them")
    refused(folder, "hidden_dropout_prob must be", "vocab_size_or_config_json_file is 'x'; only -1 or 61")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("model.safetensors", b"<!DOCTYPE html><html></html>", "web page"),
        ("model.safetensors", b"", "empty"),
        ("model.safetensors", b"PK\x03\x04" + bytes(60), "pickle"),
        ("model.safetensors", b"\xff" * 100, "not a complete safetensors file"),
        ("model.safetensors", (20).to_bytes(8, "little") + b"{" * 30, "header"),
        ("config.json", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("config.json", b"{'model_type': 'bert'}", "not JSON"),
        ("config.json", b"[1]", "object"),
        ("config.json", b"[" * 100_000, "not JSON"),
        ("config.json", b"1" * 5_000, "not JSON"),
        ("config.json", b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_wrong_files_are_identified(folder, name, content, part):
    (folder / name).write_bytes(content)
    refused(folder, name, part)


@pytest.mark.parametrize("header_bytes", [0x0280, 0x0380, 0x0480])
def test_a_header_may_be_as_long_as_the_first_bytes_of_a_pickle(tmp_path, header_bytes):
    path, tensors = tmp_path / "model.safetensors", {"a": np.zeros(1, np.float32)}
    for extra in range(header_bytes):
        save_file(tensors, path, metadata={"note": "x" * extra})
        if int.from_bytes(path.read_bytes()[:8], "little") == header_bytes:
            break
    assert path.read_bytes().startswith(bytes([0x80, header_bytes >> 8]))
    assert stored.read_tensors(path).keys() == tensors.keys()


def test_truncated_safetensors(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refused(folder, "truncated or damaged", "bytes, its header says")


def test_pickle_only_names_the_conversion(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "safe_serialization=True")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "model.safetensors.index.json")


def test_missing_folder_and_config(folder, tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    refused(folder / "config.json", "is not a folder")
    (folder / "config.json").unlink()
    refused(folder, "config.json")


def test_the_hub_offline_is_the_machines_fault(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("hf:nobody/no-such-model", "hf:nobody/no-such-model", "network", error=MachineError)
    refused("hf:not a name", "OWNER/NAME")


def test_a_row_longer_than_the_position_table(sources):
    checkpoint = models.load(sources["roberta"])
    with pytest.raises(InputError, match=r"23 tokens.*22"):
        jax.eval_shape(checkpoint.model.apply, checkpoint.params, oracle.batch("roberta", tokens=23))


def test_ids_and_types_without_a_row_are_refused_outside_jit(sources):
    for family in ("bert", "distilbert"):
        checkpoint = models.load(sources[family])
        sound = oracle.batch(family)
        checkpoint.model.apply(checkpoint.params, sound)
        for what, name, number in (("token id", "ids", 61), ("token id", "ids", -1), ("token type", "types", 2)):
            spoiled = jax.tree.map(np.copy, sound)
            getattr(spoiled, name)[1, 3] = number
            if family == "distilbert" and name == "types":
                checkpoint.model.apply(checkpoint.params, spoiled)  # it reads none
                continue
            for apply in (checkpoint.model.apply, checkpoint.model.states):
                with pytest.raises(InputError, match=rf"row 2, token 4: the {what} {number} is not .* 0 to "):
                    apply(checkpoint.params, spoiled)
            jax.eval_shape(checkpoint.model.apply, checkpoint.params, spoiled)
