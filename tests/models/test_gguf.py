"""Models out of GGUF files: numbers against the torch models they were written from, and transformers' own loading."""

import json

import jax
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM
from transformers.integrations.gguf.dequant import dequantize as second_opinion

from fft import models
from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.models.files.gguf_file import QUANTISATIONS, dequantized, read_gguf
from tests.helpers.tiny_gguf import BYTES, blocks, make, write

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2}
LINEAR, YARN = {"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WIDTHS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
IDS = np.random.default_rng(1).integers(4, len(BYTES), (2, 24)).astype(np.int32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Conversions go to a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def ours(path, ids=IDS):
    """Our logits [B, T, V] of a GGUF file."""
    checkpoint = models.load_causal(path)
    inputs = Inputs(ids, np.ones_like(ids), np.zeros_like(ids))
    states = jax.jit(lambda params: checkpoint.model.states(params, inputs, read=("tokens",)).tokens)
    return np.asarray(checkpoint.model.unembed(checkpoint.params, states(checkpoint.params)))


def torch_logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids).long()).logits.numpy()


def transformers_logits(path):
    """The logits of transformers' own loading."""
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    return torch_logits(loaded.eval())


def close(found, expected):
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 1, "head_dim": 24}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 128, "tie_word_embeddings": True}),
    ],
)
def test_a_model_is_the_one_it_was_written_from(family, fields, tmp_path):
    theirs = make(family, **fields)
    width = fields.get("head_dim")
    lengths = {"llama.attention.key_length": width, "llama.attention.value_length": width} if family == "llama" else {}
    path = write(tmp_path / "a.gguf", theirs, **lengths)
    logits = ours(path)
    close(logits, torch_logits(theirs))
    close(logits, transformers_logits(path))


@pytest.mark.parametrize(
    ("family", "fields", "metadata"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}, {}),
        ("llama", {"rope_parameters": {**LINEAR, "rope_theta": 5e4}}, {"type": "linear", "factor": 4.0}),
        (
            "qwen2",
            {"rope_parameters": {**YARN, "rope_theta": 5e4, "original_max_position_embeddings": 16}},
            {"type": "yarn", "factor": 4.0, "original_context_length": 16},
        ),
        ("qwen3", {"head_dim": 24, "attention_bias": True}, {}),
    ],
)
def test_what_transformers_leaves_out_of_a_file(family, fields, metadata, tmp_path):
    """transformers 5.23 reads neither biases, nor scaled rotations, nor head widths of qwen3 from a GGUF file."""
    theirs = make(family, **fields)
    path = write(tmp_path / "a.gguf", theirs, **{f"{family}.rope.scaling.{key}": one for key, one in metadata.items()})
    close(ours(path), torch_logits(theirs))


def test_a_factor_without_a_type_is_linear(tmp_path):
    """As llama.cpp reads it."""
    theirs = make("llama", rope_parameters={"rope_type": "linear", "rope_theta": 5e4, "factor": 4.0})
    close(ours(write(tmp_path / "a.gguf", theirs, **{"llama.rope.scaling.factor": 4.0})), torch_logits(theirs))


def test_the_frequencies_of_llama_3(tmp_path):
    """At positions far beyond the original ones, where plain rotation differs; transformers 5.23 computes that one."""
    rope = {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 8192}
    theirs = make("llama", rope_parameters=rope, max_position_embeddings=2**17, head_dim=64)
    plain = 1 / 5e5 ** (np.arange(0, 64, 2) / 64)
    divisors = (plain / theirs.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    width = {"llama.attention.key_length": 64, "llama.attention.value_length": 64}
    path = write(tmp_path / "a.gguf", theirs, tensors={"rope_freqs.weight": divisors}, **width)
    ids = np.random.default_rng(1).integers(4, len(BYTES), (1, 1024)).astype(np.int32)
    expected, logits = torch_logits(theirs, ids), ours(path, ids)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    config = json.loads((models.find_folder(path) / "config.json").read_text())
    assert config["rope_parameters"] == pytest.approx(rope)
    ones = write(tmp_path / "ones.gguf", theirs, tensors={"rope_freqs.weight": np.ones(32, np.float32)}, **width)
    assert np.abs(ours(ones, ids) - expected).max() > 0.01 * np.abs(expected).max()
    twice = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    with pytest.raises(InputError, match="scales the rotation twice"):
        models.load(write(tmp_path / "two.gguf", theirs, tensors={"rope_freqs.weight": divisors}, **width, **twice))
    for wrong in (divisors[:16], divisors[::-1].copy(), 0 * divisors, np.ones(5, np.float32)):
        with pytest.raises(InputError, match=r"rope_freqs.weight is not Llama 3's scaling"):
            models.load(write(tmp_path / "wrong.gguf", theirs, tensors={"rope_freqs.weight": wrong}, **width))


@pytest.fixture(scope="module")
def wide():
    return make("llama", **WIDE)


@pytest.mark.parametrize("name", QUANTISATIONS)
def test_every_quantisation(name, wide, tmp_path):
    path = write(tmp_path / "a.gguf", wide, Kind[name])
    file = read_gguf(path)
    assert {each.quantisation for each in file.tensors.values()} == {Kind.F32, Kind[name]}
    close(ours(path), transformers_logits(path))
    weight, found = wide.model.layers[0].mlp.up_proj.weight.detach(), dequantized(file, "blk.0.ffn_up.weight")
    if name in WIDTHS:
        np.testing.assert_array_equal(found, weight.to(WIDTHS[name]).float().numpy())
    else:
        stored = torch.tensor(blocks(weight.numpy(), Kind[name]))
        expected = second_opinion(stored, Kind[name].value).numpy().reshape(256, 256)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_the_folder(tmp_path):
    """What is written is what transformers reads, bit for bit; and a later export may replace it."""
    theirs = make("qwen3", head_dim=24)
    out = models.export_model(write(tmp_path / "a.gguf", theirs), tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(out)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.config.eos_token_id == 2 and again.generation_config.bos_token_id == 1
    assert again.config.rms_norm_eps == 1e-5, "the shortest number that is this float32"
    assert models.export_model(tmp_path / "a.gguf", out) == out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no model written by fft"):
        models.export_model(tmp_path / "a.gguf", tmp_path / "other")


def test_a_file_is_converted_once_by_its_content(tmp_path):
    path = write(tmp_path / "a.gguf", make("llama"))
    folder = models.find_folder(path)
    made = (folder / "config.json").stat().st_mtime_ns
    path.rename(tmp_path / "b.GGUF")
    assert models.find_folder(tmp_path / "b.GGUF") == folder
    (tmp_path / "b.GGUF").rename(tmp_path / "blob")
    assert models.find_folder(tmp_path / "blob") == folder, "known by its first bytes"
    assert (folder / "config.json").stat().st_mtime_ns == made
    write(path, make("llama", rms_norm_eps=1e-4))
    assert models.find_folder(path) != folder
    with pytest.raises(InputError, match=r"has no config.json, but GGUF files: give one, such as .*a\.gguf"):
        models.load(tmp_path)


# ---- what a header may not do


def test_a_header_that_ends_early_is_refused_at_every_byte(tmp_path):
    whole = write(tmp_path / "a.gguf", make("qwen2", num_hidden_layers=1), **{"tokenizer.ggml.tokens": ["a", "b"]})
    content = whole.read_bytes()
    header = len(content) - sum(each.content.nbytes for each in read_gguf(whole).tensors.values())
    for length in (*range(1, header, 7), header + 3, len(content) - 33):
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"is truncated or damaged|is not a GGUF file"):
            read_gguf(tmp_path / "cut.gguf")


@pytest.mark.parametrize("place", ["tensors", "keys", "text", "list", "rows", "offset"])
@pytest.mark.parametrize("size", [2**40, 2**63])
def test_no_announced_size_is_allocated(place, size, tmp_path):
    """Each of the sizes of a header is replaced by one that no machine could allocate."""
    huge = size.to_bytes(8, "little")
    path = write(tmp_path / "a.gguf", make("llama", num_hidden_layers=1))
    content = bytearray(path.read_bytes())
    key, tensor = content.index(b"general.architecture"), content.index(b"output_norm.weight")
    merges = content.index(b"tokenizer.ggml.merges") + len("tokenizer.ggml.merges")
    at = {"tensors": 8, "keys": 16, "text": key - 8, "list": merges + 8, "rows": tensor + 22, "offset": tensor + 34}[
        place
    ]
    content[at : at + 8] = huge
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is truncated or damaged: .*; download it again"):
        read_gguf(path)


def test_damaged_bytes_are_one_message(tmp_path):
    """Whatever byte of the header is damaged: the file is read all the same, or refused."""
    path = write(tmp_path / "a.gguf", make("llama", num_hidden_layers=1), **{"tokenizer.ggml.merges": ["a b"]})
    content, rng = path.read_bytes(), np.random.default_rng(0)
    header = len(content) - sum(each.content.nbytes for each in read_gguf(path).tensors.values())
    refused = 0
    for at in rng.integers(4, header, 150):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "b.gguf").write_bytes(damaged)
        try:
            models.export_model(tmp_path / "b.gguf", tmp_path / "out")
        except InputError:
            refused += 1
    assert refused > 20


def test_tensors_may_not_share_bytes(tmp_path):
    """A small file could otherwise become a large one."""
    path = write(tmp_path / "a.gguf", make("llama"))
    content, sizes = bytearray(path.read_bytes()), {}
    for name, stored in read_gguf(path).tensors.items():
        described, sizes[name] = len(name).to_bytes(8, "little") + name.encode(), stored.content.nbytes
        at = content.index(described) + len(described)
        offset = at + 4 + 8 * content[at] + 4
        content[offset : offset + 8] = bytes(8)
    path.write_bytes(content[: len(content) - sum(sizes.values()) + max(sizes.values())])
    with pytest.raises(InputError, match=r"is said to begin at byte \d+, where \d+ is the next one"):
        read_gguf(path)


@pytest.mark.parametrize("damage", ["one tensor elsewhere", "a tensor less", "bytes behind"])
def test_tensors_that_do_not_fill_the_file_are_refused(damage, tmp_path):
    """Each of these would read other bytes as weights without a word, or leave some unread."""
    path = write(tmp_path / "a.gguf", make("llama", num_hidden_layers=1))
    content = bytearray(path.read_bytes())
    if damage == "one tensor elsewhere":
        at = content.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8 + 4
        content[at : at + 8] = bytes(8)
    elif damage == "a tensor less":
        content[8] -= 1
    else:
        content += bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match="is truncated or damaged"):
        read_gguf(path)
