"""What the files of a decoder can disagree about: refused by tune and eval alike, or carried through unchanged."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, GenerationConfig

from fft import models
from tests.helpers.tiny_checkpoint import POSITIONS, write_new, write_original
from tests.helpers.tiny_decoder import WORDS, write_decoder
from tests.helpers.tiny_runs import fft, refused

EMBEDDINGS, INDEX = "model.embed_tokens.weight", "model.safetensors.index.json"
LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_new(folder / "new.csv", 60)
    write_original(folder / "original.csv", 60)
    return folder


def config(**fields):
    """A change of config.json."""

    def apply(folder):
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw | fields))

    return apply


def rows(number):
    """A change of the number of rows of the embedding table, in the weights and in config.json."""

    def apply(folder):
        tensors = load_file(folder / "model.safetensors")
        table = np.resize(tensors[EMBEDDINGS], (number, tensors[EMBEDDINGS].shape[1]))
        save_file({**tensors, EMBEDDINGS: table}, folder / "model.safetensors")
        config(vocab_size=number)(folder)

    return apply


def sharded(change):
    """A change of the index of a checkpoint in shards."""

    def apply(folder):
        saved = models.save(models.load(folder), folder / "shards", shard_bytes=8_000)
        (folder / "model.safetensors").unlink()
        for path in saved.glob("model*"):
            shutil.move(path, folder)
        index = json.loads((folder / INDEX).read_text())
        assert len(set(index["weight_map"].values())) > 2
        change(folder, index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))
        shutil.rmtree(saved)

    return apply


def without_a_shard(folder, placed):
    (folder / placed[EMBEDDINGS]).unlink()


def misplaced(folder, placed):
    placed[EMBEDDINGS] = next(name for name in placed.values() if name != placed[EMBEDDINGS])


def unknown_to_the_index(folder, placed):
    del placed[EMBEDDINGS]


WRONG = {
    "a shard that is not there": (sharded(without_a_shard), "which is not in"),
    "a tensor in another shard": (sharded(misplaced), f"disagree about 1 tensors, such as {EMBEDDINGS}"),
    "a tensor that the index lacks": (sharded(unknown_to_the_index), f"disagree about 1 tensors, such as {EMBEDDINGS}"),
    "rows that config.json does not say": (
        lambda folder: [rows(70)(folder), config(vocab_size=80)(folder)],
        f"{EMBEDDINGS} is [70, 16], expected [80, 16]",
    ),
    "a tokenizer beyond the table": (rows(len(WORDS) - 1), "the tokenizer is larger than the embedding table"),
    "an activation that is not computed": (config(hidden_act="xielu"), "hidden_act must be a known activation"),
    "a kind of rotation that is not computed": (config(rope_scaling={"type": "su", "factor": 2.0}), "rope_type 'su'"),
    "quantized weights": (config(quantization_config={"bits": 4}), "quantization_config is {'bits': 4}; only null"),
    "a multiplier of another family": (config(residual_multiplier=0.2), "residual_multiplier are not known"),
    "a vision-language model": (
        config(model_type="gemma3", text_config={"model_type": "gemma3_text"}, vision_config={}),
        "joins a language model with others (text_config, vision_config)",
    ),
    "rotations that contradict each other": (
        config(rope_scaling=LINEAR, rope_parameters={**LINEAR, "factor": 4.0}),
        "the rope fields contradict each other: factor is 4.0, but rope_scaling.factor is 2.0",
    ),
    "bases that contradict each other": (
        config(rope_theta=1e4, rope_parameters={"rope_theta": 5e5}),
        "rope_theta is 500000.0, but rope_theta is 10000.0",
    ),
    "heads that do not divide": (config(num_key_value_heads=3), "heads are not a multiple of 3 key-value heads"),
    "a width that the heads do not divide": (
        config(num_attention_heads=5),
        "the model width 16 is not a multiple of its 5",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_disagree_are_refused_before_anything_is_written(data, tmp_path, case):
    change, message = WRONG[case]
    write_decoder(tmp_path / "model")
    change(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    tasks = ("--new", data / "new.csv", "--original", data / "original.csv")
    for arguments in (
        ("tune", "--model", tmp_path / "model", *tasks, "--steps", 2, "--out", tmp_path / "run"),
        ("eval", "--model", tmp_path / "model", "--task", data / "original.csv", "--predictions", tmp_path / "answers"),
    ):
        refused(fft(*arguments), message)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_length_beyond_the_positions_is_refused(data, tmp_path):
    write_decoder(tmp_path / "model")
    long = ("--max-length", POSITIONS + 1)
    tune = ("tune", "--model", tmp_path / "model", "--new", data / "new.csv", "--out", tmp_path / "run", *long)
    scored = ("eval", "--model", tmp_path / "model", "--task", data / "original.csv", *long)
    for arguments in (tune, scored):
        refused(fft(*arguments), f"max_length {POSITIONS + 1} is too large: give at most {POSITIONS}, the positions of")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_table_with_more_rows_than_the_tokenizer_is_sound(data, tmp_path):
    """Tables are padded to a multiple of 64, as in Qwen."""
    for name, change in (("exact", lambda folder: None), ("padded", rows(128))):
        write_decoder(tmp_path / name)
        change(tmp_path / name)
    score = [
        fft("eval", "--model", tmp_path / name, "--task", data / "original.csv", "--json").json["score"]
        for name in ("exact", "padded")
    ]
    assert score[0] == score[1] > 0.9


@pytest.mark.parametrize(
    ("stated", "generates"),
    [(2, None), ([2, 5], None), (2, [2, 5]), ([5, 2], 2), (None, [2, 5])],
    ids=lambda ids: "-".join(map(str, np.atleast_1d(ids))),
)
def test_the_ids_that_end_a_text_travel_unchanged(tmp_path, stated, generates):
    """In config.json an int or a list; generation_config.json, where it is, has its own, which transformers prefers."""
    folder = tmp_path / "model"
    write_decoder(folder, eos_token_id=stated)
    if generates is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generates, "bos_token_id": 1}))
    saved = models.save(models.load(folder), tmp_path / "saved")
    assert json.loads((saved / "config.json").read_text())["eos_token_id"] == stated
    assert AutoConfig.from_pretrained(saved).eos_token_id == stated
    generation = "generation_config.json"
    assert (saved / generation).exists() == (generates is not None)
    if generates is not None:
        assert (saved / generation).read_bytes() == (folder / generation).read_bytes()
        assert GenerationConfig.from_pretrained(saved).eos_token_id == generates


def test_a_padding_id_is_chosen_among_several_that_end_a_text(tmp_path):
    write_decoder(tmp_path / "model", pad_token_id=None, bos_token_id=None, eos_token_id=[5, 2])
    saved = models.save(models.load(tmp_path / "model"), tmp_path / "saved")
    assert json.loads((saved / "config.json").read_text())["pad_token_id"] == 5
