"""Conversations: their forms, the tokens that are learned, and what is refused."""

import json

import numpy as np
import pyarrow.parquet
import pytest

from fft.core.errors import InputError
from fft.data import eval_batches, prepare, prepare_scored, read_scored
from fft.data.chat import chat_tokens
from fft.data.marks import marked
from fft.data.messages import as_text, chat_columns, from_text
from fft.data.settings import Data
from fft.data.tokenize import load_tokenizer
from fft.models import load_causal
from tests.helpers.tiny_chat import TEMPLATE, write_chat

USER, ANSWER = {"role": "user", "content": "the good cat"}, {"role": "assistant", "content": "a bad dog"}
MARKED = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'][0] }} "
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }} </s>{% endgeneration %}"
    "{% else %}{{ message['content'] }} </s>{% endif %} {% endfor %}{% if add_generation_prompt %}a {% endif %}"
)
WRONG = MARKED.replace(
    "{{ message['content'] }} </s>{% endgeneration %}", "{{ message['content'] }}{% endgeneration %} </s>"
)
THINKING = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'][0] }} "
    "{% if message['thought'] is defined and loop.last %}{{ message['thought'] }} {% endif %}"
    "{{ message['content'] }} </s> {% endfor %}{% if add_generation_prompt %}a {% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chat")


def tokenizer_with(folder, template, name):
    return load_tokenizer(write_chat(folder / name, template))


@pytest.fixture(scope="module")
def plain(folder):
    return tokenizer_with(folder, TEMPLATE, "plain")


def supervised(tokenizer, tokens):
    """The supervised tokens of a sequence, with blanks between."""
    names = [tokenizer.backend.id_to_token(int(number)) for number in tokens.ids[tokens.supervised]]
    return " ".join(names)


def whole(tokenizer, tokens):
    return " ".join(tokenizer.backend.id_to_token(int(number)) for number in tokens.ids)


def test_the_answer_and_the_token_that_ends_it_are_supervised(plain):
    (tokens,), across = chat_tokens(plain, {"messages": [USER, ANSWER]}, "row 1")
    assert whole(plain, tokens) == "<s> u the good cat </s> a a bad dog </s>" and not across
    assert supervised(plain, tokens) == "a bad dog </s>" and tokens.supervised[-4:].all()


def test_every_turn_of_the_assistant_is_supervised_and_no_other(plain):
    later = [USER, ANSWER, {"role": "user", "content": "sad"}, {"role": "assistant", "content": "fine"}]
    (tokens,), _ = chat_tokens(plain, {"messages": later}, "row 1")
    assert supervised(plain, tokens) == "a bad dog </s> fine </s>"
    (everything,), _ = chat_tokens(plain, {"messages": later}, "row 1", everything=True)
    assert everything.supervised.sum() == len(everything.ids) - 1 and not everything.supervised[0]


@pytest.mark.parametrize("template", [TEMPLATE, MARKED], ids=["plain", "marked"])
def test_a_turn_with_the_weight_0_is_read_and_not_learned(folder, request, template):
    tokenizer = tokenizer_with(folder, template, f"weights-{request.node.callspec.id}")
    later = [
        USER,
        {**ANSWER, "weight": 0},
        {"role": "user", "content": "sad"},
        {"role": "assistant", "content": "fine"},
    ]
    (tokens,), _ = chat_tokens(tokenizer, from_text(as_text({"messages": later}, "row 1")), "row 1")
    assert supervised(tokenizer, tokens) == "fine </s>"
    assert whole(tokenizer, tokens) == "<s> u the good cat </s> a a bad dog </s> u sad </s> a fine </s>"
    with pytest.raises(InputError, match="no message of the assistant whose weight is not 0"):
        chat_tokens(tokenizer, {"messages": later[:2]}, "row 1")
    sharegpt = [{"from": "human", "value": "sad"}, {"from": "gpt", "value": "fine", "weight": 0}]
    (_, answer) = from_text(as_text({"conversations": sharegpt}, "row 1"))["messages"]
    assert answer["weight"] == 0


def test_the_prompt_of_every_turn_is_what_generation_sees(plain):
    later = [USER, ANSWER, {"role": "user", "content": "sad"}, {"role": "assistant", "content": "fine"}]
    (tokens,), _ = chat_tokens(plain, {"messages": later}, "row 1")
    for turns, first in ((1, 7), (3, 15)):
        ids = plain.source.apply_chat_template(later[:turns], add_generation_prompt=True)["input_ids"]
        assert tokens.ids[: len(ids)].tolist() == ids and len(ids) == first and tokens.supervised[first]


def test_generation_marks_must_agree(folder):
    right = tokenizer_with(folder, MARKED, "marked")
    (tokens,), _ = chat_tokens(right, {"messages": [USER, ANSWER]}, "row 1")
    assert supervised(right, tokens) == "a bad dog </s>"
    wrong = tokenizer_with(folder, WRONG, "wrong")
    with pytest.raises(InputError, match=r"row 7: token 11, '</s>', is outside the generation marks"):
        chat_tokens(wrong, {"messages": [USER, ANSWER]}, "row 7")


def test_a_template_that_drops_earlier_thoughts_gives_a_sequence_for_each_turn(folder):
    tokenizer = tokenizer_with(folder, THINKING, "thinking")
    messages = [USER, ANSWER | {"thought": "sad sad"}, USER, {"role": "assistant", "content": "fine", "thought": "bad"}]
    sequences, _ = chat_tokens(tokenizer, {"messages": messages}, "row 1")
    assert [supervised(tokenizer, tokens) for tokens in sequences] == ["sad sad a bad dog </s>", "bad fine </s>"]
    assert (
        whole(tokenizer, sequences[1]) == "<s> u the good cat </s> a a bad dog </s> u the good cat </s> a bad fine </s>"
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER], "has no message of the assistant"),
        ([ANSWER], "has no message of the assistant"),
        ([{"role": "system", "content": "a"}, USER, ANSWER], "the chat template of .* fails .*no such role"),
    ],
)
def test_what_cannot_be_learned_is_refused(plain, messages, message):
    with pytest.raises(InputError, match=f"row 3: .*{message}"):
        chat_tokens(plain, {"messages": messages}, "row 3")


def test_a_template_that_does_not_begin_an_answer_is_refused(folder):
    tokenizer = tokenizer_with(folder, "{% for m in messages %}{{ m['content'] }} {% endfor %}x", "no-prompt")
    with pytest.raises(InputError, match="row 1: the chat template writes message 2, the assistant's, not behind"):
        chat_tokens(tokenizer, {"messages": [USER, ANSWER]}, "row 1")


def test_an_unsafe_template_is_refused(folder):
    tokenizer = tokenizer_with(folder, "{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe")
    with pytest.raises(InputError, match=r"row 1: the chat template of .* fails \(SecurityError"):
        chat_tokens(tokenizer, {"messages": [USER, ANSWER]}, "row 1")


def test_a_tool_call_that_the_template_leaves_out_is_refused(plain):
    call = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Rome"}}}
    messages = [USER, {"role": "assistant", "content": "a", "tool_calls": [call]}]
    with pytest.raises(InputError, match="row 1: the chat template does not write the call of the tool 'weather'"):
        chat_tokens(plain, {"messages": messages}, "row 1")


# ---------------------------------------------------------------- the forms in which conversations come


def test_the_forms_of_messages_are_one():
    parts = [{"type": "text", "text": "the good "}, {"type": "text", "text": "cat"}]
    row = {"messages": [{"role": "user", "content": parts}, ANSWER]}
    assert from_text(as_text(row, "row 1")) == {"messages": [USER, ANSWER]}
    shared = {
        "conversations": [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": ANSWER["content"]}]
    }
    assert as_text(shared, "row 1") == as_text({"messages": [USER, ANSWER]}, "row 1")
    alpaca = {"instruction": "the good cat", "input": "", "output": "a bad dog"}
    assert as_text(alpaca, "row 1") == as_text({"messages": [USER, ANSWER]}, "row 1")
    with_input = from_text(as_text(alpaca | {"input": "runs"}, "row 1"))
    assert with_input["messages"][0]["content"] == "the good cat\n\nruns"


def test_tool_calls_have_arguments_as_objects_and_null_contents_are_empty():
    function = {"name": "weather", "arguments": '{"town": "Rome"}'}
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function}]}
    row = {
        "messages": [USER, message, {"role": "tool", "content": "12", "tool_call_id": "1"}],
        "tools": '[{"name": "x"}]',
    }
    found = from_text(as_text(row, "row 1"))
    assert found["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"town": "Rome"}
    assert found["messages"][1]["content"] == "" and found["tools"] == [{"name": "x"}]
    assert found["messages"][2]["tool_call_id"] == "1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "column 'messages': expected a list of messages"),
        ({"messages": "hello"}, "column 'messages': not JSON"),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1: the content of the user's message is empty"),
        ({"messages": [{"role": "king", "content": "a"}]}, "message 1: the role is 'king'"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}]},
            "message 2: the content is neither",
        ),
        ({"messages": [USER, {"role": "assistant", "tool_calls": "x"}]}, "message 2: tool_calls must be a list"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "message 1: half a character"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "message 2: the weight is 0.5: give 0 for an answer"),
        ({"messages": [USER | {"name": "ab\ud800"}]}, r"message 1: half a character \(U\+D800\) behind .*ab'"),
        ({"messages": [USER], "tools": [{"name": "\ud800"}]}, "column 'tools': half a character"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
            r"message 2, tool call 1, arguments: expected an object, or one as a text, got \[1\]",
        ),
        ({"conversations": [{"from": "nobody", "value": "a"}]}, "message 1: `from` is 'nobody'"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, r"message 1: `from` is \['human'\]"),
        ({"instruction": "a", "output": ""}, "column 'output': the content of the assistant's message is empty"),
        ({"messages": [USER], "tools": [1]}, "column 'tools': expected a list of descriptions"),
    ],
)
def test_rows_that_are_no_conversation_are_refused_by_place(row, message):
    with pytest.raises(InputError, match=f"chat.jsonl, row 4, .*{message}"):
        as_text(row, "chat.jsonl, row 4")


def test_the_columns_of_a_conversation():
    assert chat_columns(("id", "messages", "tools")) == ("messages",)
    assert chat_columns(("conversations",)) == ("conversations",) and chat_columns(("text", "label")) == ()
    assert chat_columns(("output", "instruction")) == ("instruction", "output")


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_a_column_that_only_some_rows_have_is_read_in_those(tmp_path, ending):
    rows = [{"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER], "tools": [{"name": "x"}]}]
    alpaca = [{"instruction": "a", "output": "b"}, {"instruction": "a", "input": "the cat", "output": "b"}]

    def texts(rows):
        path = tmp_path / f"some.{ending}"
        if ending == "parquet":
            table = pyarrow.Table.from_pylist(rows, pyarrow.schema(fields["messages" in rows[0]]))
            pyarrow.parquet.write_table(table, path)
        else:
            path.write_text(json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)))
        return read_scored(Data(str(path), kind="chat")).texts

    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    tool = pyarrow.struct([("name", pyarrow.string())])
    fields = {
        True: [("messages", pyarrow.list_(message)), ("tools", pyarrow.list_(tool))],
        False: [(name, pyarrow.string()) for name in ("instruction", "input", "output")],
    }
    assert [from_text(text).get("tools") for text in texts(rows)] == [None, [{"name": "x"}]]
    assert [from_text(text)["messages"][0]["content"] for text in texts(alpaca)] == ["a", "a\n\nthe cat"]


# ---------------------------------------------------------------- as rows of a task


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_become_places_and_targets(folder, tmp_path):
    checkpoint = load_causal(write_chat(folder / "plain"))
    words = ("cat", "dog", "bird", "road")
    rows = [{"messages": [{"role": "user", "content": f"{a} {b}"}, ANSWER]} for a in words for b in words]
    data = prepare(Data(write_rows(tmp_path / "c.jsonl", rows)), checkpoint, "unembed", None, seed=0, max_length=None)
    train = data.splits["train"]
    assert data.kind == "chat" and data.task.metric == "nats" and set(train.labels) == {4}
    assert (train.target_counts() == 4).all() and train.targets[0][:-4].max() == -1
    note = next(note for note in data.warnings if "supervised tokens in" in note)
    assert note.startswith("train: row ") and "⟦a bad dog </s>⟧" in note
    assert not any("control tokens" in note or "unknown" in note for note in data.warnings)


def test_special_tokens_in_the_content_and_unknown_words_are_noted(folder, tmp_path):
    tokenizer = load_causal(write_chat(folder / "plain"))
    contents = [f"cat {chr(at)} {'</s>' if at % 2 else '42 42 42'}" for at in range(97, 121)]
    rows = [{"messages": [{"role": "user", "content": content}, ANSWER]} for content in contents]
    source = write_rows(tmp_path / "c.jsonl", rows)
    notes = prepare(Data(source), tokenizer, "unembed", None, seed=0, max_length=None).warnings
    assert sum(" hold </s>, read as control tokens" in note for note in notes) >= 1, notes
    assert any("% of the tokens are unknown to this vocabulary" in note for note in notes), notes


def test_long_conversations_are_cut_and_those_with_nothing_left_are_left_out(folder, tmp_path):
    checkpoint = load_causal(write_chat(folder / "plain"))
    long = {"role": "user", "content": "the " * 12}
    rows = [{"messages": [USER, ANSWER]}] * 3 + [{"messages": [long, ANSWER]}]
    source = write_rows(tmp_path / "c.jsonl", rows)

    def at(length, cut="end"):
        data = Data(source, kind="chat", cut=cut)
        return prepare_scored(data, read_scored(data), checkpoint, "unembed", None, length)

    whole_rows = at(32)
    assert whole_rows.splits["test"].labels.tolist() == [4, 4, 4, 4]
    cut = at(9)
    assert cut.splits["test"].labels.tolist() == [3, 3, 3] and cut.splits["test"].numbers.tolist() == [1, 2, 3]
    assert any("4 conversations longer than 9 tokens, cut at the end" in note for note in cut.warnings)
    assert any("1 conversation is left out, because no token to predict is left" in note for note in cut.warnings)
    front = at(9, "start")
    assert front.splits["test"].labels.tolist() == [4, 4, 4, 4]
    assert marked(load_tokenizer(checkpoint.folder), front.splits["test"], 3).endswith("⟦a bad dog </s>⟧")
    with pytest.raises(InputError, match="no conversation has a token to predict within 3 tokens"):
        at(3)


def test_places_are_those_of_the_targets(folder, tmp_path):
    checkpoint = load_causal(write_chat(folder / "plain"))
    rows = [{"messages": [USER, ANSWER]}, {"messages": [USER, {"role": "assistant", "content": "sad"}]}]
    data = Data(write_rows(tmp_path / "c.jsonl", rows))
    task = prepare_scored(data, read_scored(data), checkpoint, "unembed", None, None)
    ((batch, index),) = eval_batches(task.splits["test"], 4, (16,), 0)
    assert batch.places.shape == batch.targets.shape == batch.weight.shape == (4, 4) and index.tolist() == [0, 1]
    assert batch.weight.sum(axis=1).tolist() == [4, 2, 0, 0]
    inside = (batch.weight > 0) & (batch.places + 1 < batch.mask.sum(axis=1, keepdims=True))  # the last is no input
    following = np.take_along_axis(batch.ids, np.minimum(batch.places + 1, 15), axis=1)
    assert (following[inside] == batch.targets[inside]).all() and inside.sum() == 4
    assert batch.targets[0, 3] == batch.targets[1, 1] == 2
