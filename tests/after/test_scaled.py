"""A repaired LoRA run of a language task is a LoRA again, with the α of each layer in its B."""

import random

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fft import models
from fft.adapters import load_adapter
from fft.core.tree import flatten
from tests.helpers.tiny_chat import write_chat
from tests.helpers.tiny_runs import fft

WORDS = ["good", "bad", "cat", "dog", "bird", "road", "tree", "house"]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def repaired(request, tmp_path_factory):
    """(base, run, repaired folder): a base that knows prose learns verse with LoRA and loses the prose."""
    folder, rng = tmp_path_factory.mktemp("scaled"), random.Random(0)
    write_chat(folder / "nonsense")
    if not request.param:
        models.save(models.untied(models.load_causal(folder / "nonsense")), folder / "untied")
    for name, words in (("prose", WORDS[:4]), ("verse", WORDS[4:])):
        (folder / f"{name}.txt").write_text("\n\n".join(" ".join(rng.choices(words, k=7)) for _ in range(150)))
    common = ("--epochs", 4, "--batch-size", 16, "--eval-every", 1000)
    start = folder / ("nonsense" if request.param else "untied")
    known = ("--model", start, "--new", folder / "prose.txt", "--method", "full", "--lr", "1e-2")
    assert fft("tune", *known, *common, "--out", folder / "known").code == 0
    base = folder / "known" / "model"
    lora = ("--method", "lora", "--lora.targets", "all-linear", "--lora.rank", 4, "--lr", "3e-2")
    answer = fft("tune", "--model", base, "--new", folder / "verse.txt", *lora, *common, "--out", folder / "run")
    assert answer.code == 0, answer.err
    data = ("--original", folder / "prose.txt", "--new", folder / "verse.txt", "--max-drop", "0.3")
    answer = fft("repair", base, folder / "run", *data, "--out", folder / "repaired", "--json")
    assert answer.code in (0, 4), answer.err
    choice = answer.json["candidates"][answer.json["chosen"]]
    assert choice["kind"] in ("alpha", "layers") and choice["settings"].get("alpha") != 1.0, choice
    assert "as a LoRA of the base" in answer.err
    return base, folder / "repaired"


def test_the_adapter_on_the_base_is_the_repaired_model(repaired):
    base, folder = repaired
    model, start = (models.load_causal(path) for path in (folder / "model", base))
    merged = flatten(load_adapter(folder / "adapter", start).on(start).params)
    for path, leaf in flatten(model.params).items():
        assert np.abs(np.asarray(leaf - merged[path])).max() <= 1e-6 * max(1, np.abs(np.asarray(leaf)).max()), path


def test_peft_reads_it(repaired):
    base, folder = repaired
    ids = torch.tensor([[4, 5, 6, 7]])
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    ours = AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, ours(ids).logits, atol=1e-5)
