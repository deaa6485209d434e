"""`fft check` of language models whose tokenizers or chat templates differ."""

import json

import pytest

from tests.helpers.tiny_chat import TEMPLATE, write_chat, write_jsonl
from tests.helpers.tiny_checkpoint import POSITIONS
from tests.helpers.tiny_runs import fft, refused

WORDS = ("good", "bad", "cat", "dog", "bird", "runs")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A base, prose, and conversations; none has the words near and the."""
    folder = tmp_path_factory.mktemp("tokens")
    write_chat(folder / "base")
    said = [f"{WORDS[at % 6]} {WORDS[(at // 6) % 6]}" for at in range(12)]
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}] for text in said]
    write_jsonl(folder / "chat.jsonl", [{"messages": messages} for messages in turns])
    (folder / "prose.txt").write_text("\n\n".join([*said, " ".join(WORDS * (POSITIONS // 4))]))
    return folder


def changed(folder, change):
    """Write a model like the base with another tokenizer.json."""
    write_chat(folder)
    told = json.loads((folder / "tokenizer.json").read_text())
    change(told)
    (folder / "tokenizer.json").write_text(json.dumps(told))
    return folder


def check(tiny, other, source, *flags):
    return fft("check", tiny / "base", other, "--original", tiny / source, "--original.max-new", 4, *flags, "--json")


def test_documents_of_several_windows_are_compared(tiny):
    answer = check(tiny, write_chat(tiny / "same"), "prose.txt")
    assert answer.code in (0, 4), answer.err
    assert answer.json["original"][0]["score"]["n"] == 13
    assert any("cut into" in note for note in answer.json["notes"])


def test_two_tokens_that_changed_places_are_refused_though_no_row_has_them(tiny, tmp_path):
    def swap(told):
        words = told["model"]["vocab"]
        words["near"], words["the"] = words["the"], words["near"]

    other = changed(tmp_path / "swapped", swap)
    for source in ("prose.txt", "chat.jsonl"):
        answer = check(tiny, other, source)
        refused(answer, "only checkpoints of one tokenizer can be compared: token ")
        assert "Put the tokenizer files back" in answer.err


def test_a_token_under_another_id_is_refused(tiny, tmp_path):
    def move(told):
        words = told["model"]["vocab"]
        words["the"] = words.pop("near")  # its own id is free then

    refused(check(tiny, changed(tmp_path / "moved", move), "prose.txt"), "token 15 is 'the' in ")


def test_a_token_that_only_one_has_is_said_and_refused_where_a_row_has_it(tiny, tmp_path):
    def less(told):
        told["model"]["vocab"].pop("near")

    other = changed(tmp_path / "less", less)
    answer = check(tiny, other, "prose.txt")
    assert answer.code in (0, 4), answer.err
    note = f"the tokenizer of {tiny / 'base'} has 1 token that {other} lacks, 'near'"
    assert note in answer.json["notes"]
    (tiny / "near.txt").write_text("\n\n".join(["good cat", "near the cat"]))
    refused(check(tiny, other, "near.txt"), "row 2: ")


def test_another_chat_template_is_refused_until_one_is_given_for_both(tiny, tmp_path):
    other = write_chat(tmp_path / "other", TEMPLATE.replace("[0] }}", "[0] }} the"))
    refused(check(tiny, other, "chat.jsonl"), "because their chat templates differ: give one for both with --original")
    (tmp_path / "one.jinja").write_text(TEMPLATE)
    answer = check(tiny, other, "chat.jsonl", "--original.chat-template", tmp_path / "one.jinja")
    assert answer.code in (0, 4) and not any("chat templates" in note for note in answer.json["notes"])
    assert check(tiny, other, "prose.txt").code in (0, 4), "prose is not put into a template"


def test_another_chat_template_that_writes_these_rows_alike_is_said(tiny, tmp_path):
    other = write_chat(tmp_path / "alike", "{# tuned #}" + TEMPLATE)
    answer = check(tiny, other, "chat.jsonl")
    assert answer.code in (0, 4), answer.err
    assert any("have different chat templates, which write these rows alike" in note for note in answer.json["notes"])
    assert not any("chat templates" in note for note in check(tiny, other, "prose.txt").json["notes"])
