"""Prompts: the rows of a file, the chat template, the ids; refused with the row where they are wrong."""

import json
import re

import pytest
from transformers import AutoTokenizer

from fft.core.errors import InputError
from fft.data.prompts import Prompt, checked, encode_prompt, in_chat, read_prompts
from fft.data.tokenize import load_tokenizer
from tests.helpers.tiny_chat import TEMPLATE, write_chat

CHAT = [
    {"role": "user", "content": "the good cat"},
    {"role": "assistant", "content": "bad"},
    {"role": "user", "content": "why"},
]


def test_rows_are_texts_or_conversations(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "the cat", "completion": "sat"}, {"messages": CHAT}, {"prompt": ""}]
    path.write_text("\n".join([*map(json.dumps, rows), "", ""]))
    found = read_prompts(path)
    assert [prompt.content for prompt in found] == ["the cat", CHAT, ""]
    assert found[2].where == f"{path}, row 3"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("p.jsonl", '{"text": "a"}', "row 1: a row has either 'prompt', a text, or 'messages'"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "a", "messages": []}', "row 2: a row has either"),
        ("p.jsonl", '{"prompt": 3}', "row 1: expected a text, or a list of messages"),
        ("p.jsonl", '{"messages": []}', "row 1: expected a text, or a list of messages"),
        ("p.jsonl", '{"messages": [{"role": "user"}]}', "message 1 needs a `role` and a `content`"),
        ("p.jsonl", json.dumps({"messages": CHAT[:2]}), "ends with the assistant's answer"),
        ("p.jsonl", '{"prompt": "\\ud800"}', "half a character"),
        ("p.jsonl", "prompt", "not JSON"),
        ("p.jsonl", "", "the file is empty"),
        ("p.csv", "prompt\na\n", "read from JSON lines"),
        (None, "", "there is no such file"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / (name or "none.jsonl")
    if name:
        path.write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_prompts(path)


def test_ids_are_those_of_transformers(tmp_path):
    folder = write_chat(tmp_path / "m")
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("the good cat", "a", ""):
        assert encode_prompt(ours, Prompt(text, ""), None).tolist() == theirs(text)["input_ids"]
    expected = theirs.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert encode_prompt(ours, checked(CHAT, ""), None).tolist() == expected and expected.count(1) == 1
    alone = encode_prompt(ours, in_chat(Prompt("why", "")), None)
    assert alone.tolist() == theirs.apply_chat_template(CHAT[2:], add_generation_prompt=True)["input_ids"]
    assert in_chat(checked(CHAT, "")).content == CHAT


def test_an_empty_text_begins_with_bos(tmp_path):
    folder = write_chat(tmp_path / "m")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    ours = load_tokenizer(folder)
    assert encode_prompt(ours, Prompt("", "--prompt 1"), 1).tolist() == [1]
    with pytest.raises(InputError, match=r"--prompt 1 has no tokens, and .* names no bos_token_id"):
        encode_prompt(ours, Prompt("", "--prompt 1"), None)


@pytest.mark.parametrize(
    "template, message",
    [
        (None, "has no chat template"),
        (TEMPLATE.replace("not in", "in"), "TemplateError: no such role"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_templates_that_fail_are_refused(tmp_path, template, message):
    ours = load_tokenizer(write_chat(tmp_path / "m", template))
    with pytest.raises(InputError, match=message) as error:
        encode_prompt(ours, in_chat(Prompt("the cat", "--prompt 1")), None)
    assert "--prompt 1" in str(error.value) and "\n" not in str(error.value)
