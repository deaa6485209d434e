"""What merging and casting an adapter costs: the figures of `fft export`, against plain numpy and torch."""

import json

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from fft import models
from fft.adapters import load_adapter
from fft.adapters.merged import beside, merging_difference
from fft.adapters.serving import serving_notes
from fft.core.computation import Computation
from fft.evaluate.difference import SENTENCES, difference
from tests.helpers import peft_adapters as oracle
from tests.helpers import torch_decoders
from tests.helpers.tiny_decoder import write_decoder
from tests.helpers.tiny_runs import fft, refused, tune

AUTO = {True: AutoModelForSequenceClassification, False: AutoModelForCausalLM}


@pytest.fixture(scope="module", params=[True, False], ids=["score", "lm"])
def merged(request, tmp_path_factory):
    """(folder of a bfloat16 base, whether it is a classifier) and beside it peft's adapter `a`."""
    folder = tmp_path_factory.mktemp("merged")
    write_decoder(folder / "base", head=request.param)
    AUTO[request.param].from_pretrained(folder / "base", dtype="bfloat16").save_pretrained(folder / "base")
    task = "SEQ_CLS" if request.param else "CAUSAL_LM"
    config = peft.LoraConfig(task_type=task, r=2, target_modules="all-linear")
    wide = AUTO[request.param].from_pretrained(folder / "base", dtype="float32")
    oracle.adapted(wide, config, spread=0.05).save_pretrained(folder / "a")
    return folder, request.param


def torch_outputs(model, tokenizer, is_classifier):
    """The logits [B, C], or those of every token [N, V], of the built-in sentences one by one."""
    with torch.no_grad():
        rows = [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0] for text in SENTENCES]
    return (torch.stack(rows) if is_classifier else torch.cat(rows)).double()


def test_the_three_figures_are_those_of_peft_beside_the_base_and_of_the_exported_file(merged, tmp_path):
    folder, is_classifier = merged
    answer = fft("export", folder / "base", "--adapter", folder / "a", "--out", tmp_path / "hf", "--json")
    assert answer.code == 0, answer.err
    found = answer.json["merging"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    base = AUTO[is_classifier].from_pretrained(folder / "base", dtype="float32")
    first = torch_outputs(oracle.with_peft(base, folder / "a"), tokenizer, is_classifier)
    exported = AUTO[is_classifier].from_pretrained(tmp_path / "hf", dtype="float32").eval()
    second = torch_outputs(exported, tokenizer, is_classifier)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    p, q = first.log_softmax(1), second.log_softmax(1)
    expected = {
        "largest": float((first - second).abs().max()),
        "scale": float(first.abs().max()),
        "kl": float((p.exp() * (p - q)).sum(1).mean()),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=0.01, abs=1e-7), name
    assert found["flipped"] == int((first.argmax(1) != second.argmax(1)).sum())
    assert found["places"] == len(first) and found["largest"] > 1e-4
    assert "merging the adapter and storing it in bfloat16 changed the logits by at most" in answer.err
    assert answer.err.count("top-1 flipped") == 1


def test_the_adapter_beside_the_base_is_pefts_before_it_is_merged(merged):
    """For every kind of LoRA, and in float32 merging costs only rounding."""
    folder, is_classifier = merged
    base = models.load(folder / "base", language=not is_classifier)
    base = base._replace(raw_config={**base.raw_config, "dtype": "float32"})
    adapter = load_adapter(folder / "a", base)
    sided = beside(adapter, base)
    assert any("lora_a" in str(path) for path in models_paths(sided))
    found = merging_difference(adapter, base, adapter.on(base), base.primary)
    assert found.largest <= 1e-5 * max(1, found.scale) and found.flipped == 0 and found.kl < 1e-9
    same = difference(base, base, base.primary)
    assert (same.largest, same.kl, same.flipped) == (0.0, 0.0, 0)


def models_paths(checkpoint):
    return [path for path in json.dumps(jax_shapes(checkpoint.params)).split('"')]


def jax_shapes(tree):
    return {name: jax_shapes(value) if isinstance(value, dict) else list(value.shape) for name, value in tree.items()}


def test_a_checkpoint_of_a_bfloat16_run_is_compared_in_float32(merged):
    folder, is_classifier = merged
    base = models.load(folder / "base", language=not is_classifier)
    adapter = load_adapter(folder / "a", base)
    head = base.primary if is_classifier else None
    expected = merging_difference(adapter, base, adapter.on(base), head)
    fast = models.computed(base, Computation(compute="bfloat16"))
    assert merging_difference(adapter, fast, adapter.on(fast), head) == expected


def test_a_dora_adapter_on_embeddings_and_language_head_beside_its_base(tmp_path):
    write_decoder(tmp_path / "base", head=False)
    targets = ["q_proj", "embed_tokens", "lm_head"]
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, use_dora=True)
    model = oracle.adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config)
    model.save_pretrained(tmp_path / "a")
    base = models.load(tmp_path / "base", language=True)
    sided = beside(load_adapter(tmp_path / "a", base), base)
    batch = oracle.rows(torch_decoders.PAD, vocabulary=base.model.config.vocab_size)
    assert oracle.deviation(oracle.ours(sided, batch), oracle.theirs(model, batch)) <= 1e-5


def test_the_export_of_a_run_with_lora_says_what_merging_cost_and_that_of_full_does_not(tmp_path):
    write_decoder(tmp_path / "llama")
    for name in ("new", "original"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(LINES))
    quick = ("--steps", 2, "--batch-size", 4, "--tolerance", 1, "--keep", "latest")
    assert tune(tmp_path, tmp_path / "run", *quick, "--method", "lora", model="llama").code == 0
    answer = fft("export", tmp_path / "run", "--out", tmp_path / "hf", "--json")
    assert answer.code == 0 and answer.json["merging"]["largest"] < 1e-4, answer
    answer = fft("export", tmp_path / "run", "--to", "peft", "--out", tmp_path / "a", "--json")
    assert answer.code == 0 and "note: vLLM refuses adapters with modules_to_save (score)" in answer.err
    assert tune(tmp_path, tmp_path / "full", *quick, model="llama").code == 0
    assert "merging" not in fft("export", tmp_path / "full", "--out", tmp_path / "hf", "--json").json
    out = ("--out", tmp_path / "x")
    refused(fft("export", tmp_path / "run", "--rank", 4, *out), "--base and --rank are for --to lora")
    refused(fft("export", tmp_path / "run", "--to", "lora", *out), "--to lora needs --base")


LINES = [f"{'good' if i % 2 else 'bad'} {word} {i},{i % 2}\n" for i, word in enumerate(["film", "house", "tree"] * 40)]
LORA = {"peft_type": "LORA", "r": 8, "bias": "none"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (LORA, None),
        (LORA | {"r": 64}, "vLLM needs --max-lora-rank 64 or more for this adapter; its default is 16"),
        (LORA | {"rank_pattern": {"q_proj": 32}}, "vLLM needs --max-lora-rank 32"),
        (LORA | {"use_dora": True, "bias": "all"}, "vLLM refuses adapters with use_dora and trained biases"),
        (LORA | {"modules_to_save": ["score"]}, "vLLM refuses adapters with modules_to_save (score)"),
        ({"peft_type": "IA3"}, "vLLM loads LoRA adapters only, not IA3"),
    ],
)
def test_what_vllm_does_not_load_is_said(fields, message):
    notes = serving_notes(fields)
    assert notes == () if message is None else notes[0].startswith(message)


def test_without_a_tokenizer_the_rows_are_random_tokens(tmp_path):
    write_decoder(tmp_path / "base", head=False)
    (tmp_path / "base" / "tokenizer.json").unlink()
    base = models.load(tmp_path / "base", language=True)
    found = difference(base, base, None)
    assert found.where == "every token of 8 rows of random tokens, as there is no tokenizer"
    assert found.places == 8 * 16 and np.isfinite(found.scale)
