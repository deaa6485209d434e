"""Generated texts: those of transformers, the same in any batch; end tokens, positions, and what is refused."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import fft
from fft import models
from fft.core.errors import InputError
from fft.data.prompts import named_ids
from fft.evaluate.generate import check_room
from fft.models.families.llama import FAMILY, LlamaConfig
from fft.models.model import build
from tests.helpers.tiny_chat import write_chat
from tests.helpers.tiny_checkpoint import POSITIONS

PROMPTS = ["the good cat", "bad", "", "the the the the film was a good film and a bad one " * 2]
CHAT = [{"role": "user", "content": "the good cat"}]
SAMPLED = {"temperature": 1.3, "top_p": 0.9, "n": 3, "max_new": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat(tmp_path_factory.mktemp("chat") / "m")


@pytest.fixture(scope="module")
def checkpoint(folder):
    return models.load_causal(folder)


def of_transformers(folder, ids, new):
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    made = theirs.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=new, attention_mask=torch.ones(1, len(ids))
    )
    return made[0, len(ids) :].tolist()


def test_texts_are_those_of_transformers(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat_ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    found = fft.generate(folder, [*PROMPTS, CHAT], max_new=7)
    for ids, given in zip(found.ids, [*(tokenizer(text)["input_ids"] for text in PROMPTS), chat_ids], strict=True):
        assert ids == of_transformers(folder, given, 7)
    for text, ids, prompt in zip(found.texts, found.ids, PROMPTS, strict=False):
        whole = tokenizer.decode([*tokenizer(prompt)["input_ids"], *ids], skip_special_tokens=True)
        assert tokenizer.decode(tokenizer(prompt)["input_ids"], skip_special_tokens=True) + text == whole
    assert fft.generate(folder, "the good cat", chat=True, max_new=7).ids == found.ids[4:]


def test_samples_do_not_depend_on_their_batch(checkpoint):
    found = fft.generate(checkpoint, PROMPTS, **SAMPLED)
    assert len(found.texts) == len(found.ids) == 12 and len({tuple(ids) for ids in found.ids}) > 4
    assert fft.generate(checkpoint, PROMPTS, **SAMPLED, batch_size=1) == found
    assert fft.generate(checkpoint, PROMPTS[:2], **SAMPLED, batch_size=5).ids == found.ids[:6]
    assert fft.generate(checkpoint, PROMPTS, **SAMPLED, seed=1) != found


@pytest.mark.parametrize("place", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("listed", [False, True])
def test_the_end_tokens(tmp_path, place, listed):
    """The stop token ends the ids and is not in the text if it is special; generation_config.json counts first."""
    folder = write_chat(tmp_path / "m", eos_token_id=2)
    first = fft.generate(folder, "the good cat", max_new=4).ids[0]
    stop = first[1]
    raw = json.loads((folder / "config.json").read_text())
    fields = {"eos_token_id": [2, stop] if listed else stop}
    (folder / place).write_text(json.dumps(raw | fields if place == "config.json" else fields))
    expected = first[: first.index(stop) + 1]
    assert fft.generate(folder, ["the good cat", "bad"], max_new=4).ids[0] == expected
    assert of_transformers(folder, [1, *fft_ids(folder, "the good cat")], 4) == expected


def fft_ids(folder, text):
    return AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("value", ["</s>", 10**6, -1, [2, "x"], True])
def test_wrong_end_tokens_are_refused(checkpoint, tmp_path, value):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(InputError, match=r"generation_config.json: eos_token_id is .*; expected ids"):
        named_ids(tmp_path, checkpoint.raw_config, checkpoint.model.config.vocab_size, "eos_token_id")


def test_the_last_position_is_used(checkpoint):
    room = POSITIONS - 2
    found = fft.generate(checkpoint, "a", max_new=room)
    assert len(found.ids[0]) == room
    message = f"prompt 1 has 2 tokens, which with {room + 1} new ones are more than the {POSITIONS} positions"
    with pytest.raises(InputError, match=f"{message}.*give --max-new {room} or less"):
        fft.generate(checkpoint, "a", max_new=room + 1)
    with pytest.raises(InputError, match="shorten it"):
        fft.generate(checkpoint, "a " * POSITIONS, max_new=1)


def test_longrope_is_not_crossed():
    rope = {"rope_type": "longrope", "short_factor": (1.0, 1.0), "long_factor": (2.0, 4.0), "rope_theta": 1e4}
    fields = (*rope.items(), ("original_max_position_embeddings", 16))
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=64, rope_parameters=fields)
    model = build(FAMILY, config)
    for tokens, new in ((10, 6), (17, 40), (1, 15)):
        check_room(model, tokens, new, "it")
    for tokens, new in ((10, 7), (16, 1)):
        with pytest.raises(InputError, match="it crosses the 16 positions at which the longrope rotation"):
            check_room(model, tokens, new, "it")
    check_room(model, 10, 4, "it", places=2)
    for tokens, new in ((10, 5), (17, 2)):
        with pytest.raises(InputError, match=r"it crosses the 14 positions .* a shorter prompt"):
            check_room(model, tokens, new, "it", places=2)


def test_bfloat16(checkpoint, folder):
    found = fft.generate(folder, PROMPTS, max_new=5, compute="bfloat16")
    assert all(len(ids) == 5 for ids in found.ids)
    assert np.mean(np.array(found.ids) == np.array(fft.generate(checkpoint, PROMPTS, max_new=5).ids)) > 0.5


def test_ids_beyond_the_embedding_table_are_refused(tmp_path):
    """A special token that only tokenizer_config.json adds gets an id that the model does not have."""
    base = write_chat(tmp_path / "m")
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"additional_special_tokens": ["<a>", "<b>", "<c>"]}))
    for prompt in ("the <c> cat", [{"role": "user", "content": "<c>"}]):
        with pytest.raises(InputError, match=r"prompt 1: token '<c>' has id .*, the embedding table has 81 rows"):
            fft.generate(base, [prompt], max_new=2)


def test_wrong_arguments_are_refused(checkpoint, folder):
    for given, settings, message in (
        ([], {}, "there are no prompts"),
        (["a"], {"topp": 1}, "unknown settings topp"),
        (["a"], {"top_p": 0.5}, "--top-p 0.5 has no effect at temperature 0"),
        (["a"], {"n": 2}, "--n 2 has no effect at temperature 0"),
        (["a"], {"temperature": float("nan")}, "--temperature must"),
        (["a"], {"temperature": 1, "top_p": 1.1}, "--top-p must"),
        ([3], {}, "prompt 1: expected a text"),
        (CHAT, {}, "prompt 1: expected a text"),
    ):
        with pytest.raises(InputError, match=message):
            fft.generate(checkpoint, given, **settings)
    with pytest.raises(InputError, match="has no language head to write texts with"):
        fft.generate(models.load(folder), ["a"])
