"""Texts and completions as tokens: every token of a document once, prompts as generation sees them, the kinds read off
the columns.
"""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fft.core.errors import InputError
from fft.data import describe, eval_batches, prepare, prepare_scored, read_scored
from fft.data.settings import Data, kind_of
from fft.models import load_causal
from tests.helpers.tiny_chat import write_chat
from tests.helpers.tiny_checkpoint import write_csv

WORDS = ["the", "good", "cat", "runs", "near", "a", "bad", "dog"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_causal(write_chat(tmp_path_factory.mktemp("text") / "m"))


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scored(checkpoint, data, length=None):
    return prepare_scored(data, read_scored(data), checkpoint, "unembed", None, length)


def texts(count, words=12):
    return [" ".join(WORDS[(at + n) % len(WORDS)] for n in range(words)) for at in range(count)]


def test_every_token_of_a_document_is_a_target_once(checkpoint, tmp_path):
    source = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in texts(3)])
    rows = scored(checkpoint, Data(source), 5).splits["test"]
    tokenizer_ids = [1, *[15, 4, 12], 2]  # <s> … </s>
    assert rows.labels.tolist() == [13, 13, 13] and rows.numbers.tolist() == [1, 2, 3]
    assert [len(ids) for ids in rows.ids[:3]] == [5, 5, 3] and rows.example.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    document = np.concatenate([rows.ids[0], rows.ids[1], rows.ids[2]])
    targets = np.concatenate([rows.targets[0], rows.targets[1], rows.targets[2]])
    assert (document[1:] == targets[:-1]).all() and targets[-1] == 2 and document[0] == tokenizer_ids[0]


def test_windows_of_a_document_are_one_example(checkpoint, tmp_path):
    source = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in texts(4)])
    rows = scored(checkpoint, Data(source), 5).splits["test"]
    values = np.arange(len(rows.ids), dtype=np.float32)[:, None]
    assert rows.summed(values)[:, 0].tolist() == [3.0, 12.0, 21.0, 30.0]
    two = rows.take_examples(np.array([1, 3]))
    assert two.numbers.tolist() == [2, 4] and two.example.tolist() == [0, 0, 0, 1, 1, 1]
    one = rows.take(np.array([4, 5]))
    assert one.example is None and one.labels.tolist() == [5, 3] and one.numbers.tolist() == [2, 2]
    bytes_of = rows._replace(labels=np.array([130, 26, 26, 26]))
    assert bytes_of.take(np.array([0, 2])).labels.tolist() == [50, 30]
    places = {batch.places.shape[1] for batch, _ in eval_batches(rows, 4, (5,), 0)}
    assert places == {5}


def test_few_files_are_blocks_and_many_are_documents(checkpoint, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text("the good cat\nruns\n\n  \nbad dog\r\n\r\na bird\n")
    rows = read_scored(Data(str(few)))
    assert rows.texts == ["the good cat\nruns", "bad dog", "a bird"] and not rows.complete
    assert scored(checkpoint, Data(str(few))).splits["test"].labels.tolist() == [4, 2, 2]  # <s> before, nothing behind
    folder = tmp_path / "many"
    folder.mkdir()
    for at, text in enumerate(texts(20)):
        (folder / f"{at:02}.txt").write_text(f"{text}\n\n{text}")
    rows = read_scored(Data(str(folder)))
    assert len(rows.texts) == 20 and rows.complete
    assert read_scored(Data(str(folder / "1*.txt"))).texts == [part for text in texts(20)[10:] for part in (text, text)]
    assert scored(checkpoint, Data(str(folder))).splits["test"].labels.tolist() == [25] * 20  # </s> behind
    for kind in (None, "text"):
        with pytest.raises(InputError, match=r"3\*\.txt: no file matches this pattern"):
            read_scored(Data(str(folder / "3*.txt"), kind=kind))


def test_the_blocks_of_a_file_are_called_blocks(checkpoint, tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("\n\n".join(f"{text} {at}" for at, text in enumerate(texts(31))))
    data = prepare(Data(str(path)), checkpoint, "unembed", None, seed=0, max_length=5)
    count = len(data.splits["train"].labels)
    assert any(f"{count} blocks of " in note for note in data.warnings)
    assert any(f"train: {count} blocks longer than 5 tokens, cut into" in note for note in data.warnings)
    assert not any("document" in note for note in data.warnings)


def test_a_column_of_prompts_that_is_not_read_is_said(checkpoint, tmp_path):
    rows = [{"question": "the cat", "prompt": "a dog", "answer": "good"}]
    data = Data(write_jsonl(tmp_path / "a.jsonl", rows))
    note = "the prompts are those of the column 'prompt'; 'question' is not read"
    assert note in scored(checkpoint, data).warnings and read_scored(data).texts == ["a dog"]
    alone = Data(write_jsonl(tmp_path / "b.jsonl", [{"question": "the cat", "answer": "good"}]))
    assert not any("not read" in each for each in scored(checkpoint, alone).warnings)


def test_a_text_that_is_binary_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"the good\0cat")
    with pytest.raises(InputError, match=r"a\.txt, line 1: a zero byte"):
        read_scored(Data(str(tmp_path / "a.txt")))
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"b\.txt"):
        read_scored(Data(str(tmp_path / "b.txt")))


def test_only_completions_are_supervised_unless_all_is_asked_for(checkpoint, tmp_path):
    rows = [{"prompt": "the good cat", "completion": " bad dog"}, {"prompt": "a", "completion": " bird"}]
    source = write_jsonl(tmp_path / "c.jsonl", rows)
    only = scored(checkpoint, Data(source))
    assert only.kind == "completion" and only.splits["test"].labels.tolist() == [3, 2]
    assert scored(checkpoint, Data(source, loss="all")).splits["test"].labels.tolist() == [6, 3]
    ids = only.splits["test"].ids[0].tolist()
    alone = checkpoint_ids(checkpoint, "the good cat")
    assert ids[: len(alone)] == alone and (only.splits["test"].targets[0][: len(alone) - 1] == -1).all()


def checkpoint_ids(checkpoint, text):
    from fft.data.prompts import Prompt, encode_prompt
    from fft.data.tokenize import load_tokenizer

    return encode_prompt(load_tokenizer(checkpoint.folder), Prompt(text, "a prompt"), None).tolist()


def test_a_token_across_the_border_is_read_apart_and_said(checkpoint, tmp_path):
    source = write_jsonl(tmp_path / "c.jsonl", [{"prompt": "the goo", "completion": "d cat"}])
    task = scored(checkpoint, Data(source))
    alone = checkpoint_ids(checkpoint, "the goo")
    assert task.splits["test"].ids[0][: len(alone)].tolist() == alone
    assert any("1 row would have a token across the border" in note for note in task.warnings)


def test_a_completion_is_read_behind_its_prompt_where_no_token_crosses_the_border(tmp_path):
    """With a tokenizer that puts a blank before every text: read by itself, a completion would have one more."""
    folder = write_chat(tmp_path / "m")
    vocabulary = {token: at for at, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "▁a", "▁b", "▁c", "▁"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.save(str(folder / "tokenizer.json"))
    source = write_jsonl(tmp_path / "c.jsonl", [{"prompt": "a b", "completion": " c"}])
    task = scored(load_causal(folder), Data(source))
    assert task.splits["test"].ids[0].tolist() == [4, 5, 6] and task.splits["test"].targets[0].tolist() == [-1, 6, 2]
    assert not any("across the border" in note for note in task.warnings)


def test_a_completion_that_is_all_cut_away_is_left_out_and_if_all_are_refused(checkpoint, tmp_path):
    long = {"prompt": "the " * 20, "completion": " bad"}
    source = write_jsonl(tmp_path / "c.jsonl", [long, {"prompt": "a", "completion": " bird"}])
    task = scored(checkpoint, Data(source), 8)
    assert task.splits["test"].numbers.tolist() == [2] and len(task.keys["test"]) == 1
    assert any("1 row is left out" in note for note in task.warnings)
    only = write_jsonl(tmp_path / "d.jsonl", [long])
    with pytest.raises(InputError, match="no row has a token to predict within 8 tokens"):
        scored(checkpoint, Data(only), 8)
    assert scored(checkpoint, Data(only, cut="start"), 8).splits["test"].labels.tolist() == [2]


def test_a_completion_that_is_too_long_is_split_where_that_is_asked_for(checkpoint, tmp_path):
    long = {"prompt": "the good cat", "completion": " bad dog" * 5}
    source = write_jsonl(tmp_path / "c.jsonl", [{"prompt": "a", "completion": " bird"}, long])
    task = scored(checkpoint, Data(source, cut="split"), 6)
    rows, whole = task.splits["test"], scored(checkpoint, Data(source), 24).splits["test"]
    assert rows.labels.tolist() == whole.labels.tolist() == [2, 11] and rows.example.tolist() == [0, 1, 1, 1]
    pieces = range(1, 4)
    assert np.concatenate([rows.ids[at] for at in pieces]).tolist() == whole.ids[1].tolist()
    assert np.concatenate([rows.targets[at] for at in pieces]).tolist() == whole.targets[1].tolist()
    assert any("1 row longer than 6 tokens, split into 3 pieces" in note for note in task.warnings)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"text": "a", "label": "b"}, "classification"),
        ({"text": "a"}, "text"),
        ({"text": "a", "sentiment": "b"}, "classification"),
        ({"prompt": "a", "completion": "b", "id": 1}, "completion"),
        ({"messages": [], "id": 1}, "chat"),
        ({"conversations": []}, "chat"),
        ({"instruction": "a", "output": "b"}, "chat"),
        ({"body": "a"}, "classification"),
    ],
)
def test_the_kind_is_read_off_the_columns(tmp_path, row, kind):
    assert kind_of(Data(write_jsonl(tmp_path / "a.jsonl", [row]))) == kind
    assert kind_of(Data(write_jsonl(tmp_path / "a.jsonl", [row]), kind="regression")) == "regression"


def test_the_kind_of_other_files(tmp_path):
    assert kind_of(Data(write_csv(tmp_path / "a.csv", ("prompt", "completion"), [("a", "b")]))) == "completion"
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "a", "output": "b"}], indent=1))
    assert kind_of(Data(str(tmp_path / "a.json"))) == "chat"
    assert len(read_scored(Data(str(tmp_path / "a.json"))).texts) == 1
    (tmp_path / "a.py").write_text("x = 1\n")
    assert kind_of(Data(str(tmp_path / "a.py"))) == kind_of(Data(str(tmp_path))) == "text"
    assert kind_of(Data(str(tmp_path / "*.py"))) == "text"
    assert kind_of(Data(str(tmp_path / "missing.csv"))) == "classification"  # reading it says that it is not there


def test_a_column_that_is_not_there_is_named(checkpoint, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    for kind, message in (("chat", "no column 'messages' for the conversation"), ("completion", "no column 'prompt'")):
        with pytest.raises(InputError, match=message):
            read_scored(Data(source, kind=kind))


def test_bits_a_byte_divide_by_the_bytes_of_what_is_scored(checkpoint, tmp_path):
    source = write_jsonl(tmp_path / "c.jsonl", [{"prompt": "a", "completion": " good bird"}])
    task = scored(checkpoint, Data(source, metric="bits_per_byte"))
    assert task.splits["test"].labels.tolist() == [len("good bird")]


def test_the_longest_row_is_the_length_by_default_and_what_is_cut_is_counted(checkpoint, tmp_path):
    source = write_jsonl(tmp_path / "t.jsonl", [{"text": f"{text} {at % 7}"} for at, text in enumerate(texts(60, 9))])
    most = checkpoint.model.config.max_positions

    def prepared(source, **settings):
        return prepare(Data(source, **settings), checkpoint, "unembed", None, seed=0, max_length=None)

    data = prepared(source)
    longest = max(len(ids) for part in data.splits.values() for ids in part.ids)
    assert data.lengths[-1] == longest < most and data.splits["train"].example is None
    (said,) = [note for note in data.warnings if "of them supervised" in note]
    assert said.endswith(f"; rows of up to {longest} tokens, none cut"), said
    long = write_jsonl(tmp_path / "l.jsonl", [{"text": f"{text} {at}"} for at, text in enumerate(texts(60, 2 * most))])
    data = prepared(long)
    rows = data.splits["train"]
    assert data.lengths[-1] == most and len(rows.ids) > len(rows.labels)
    note = f"train: {len(rows.labels)} documents longer than {most} tokens, cut into {len(rows.ids)} windows"
    assert note in data.warnings and not any("none cut" in note for note in data.warnings)
    described = describe(Data(long), checkpoint.folder, config=checkpoint.model.config)
    assert described["splits"]["train"]["cut"] == len(rows.labels) and described["max_length"] == most
    assert note in described["troubles"]


def test_documents_are_split_whole(checkpoint, tmp_path):
    source = write_jsonl(tmp_path / "t.jsonl", [{"text": f"{text} {at % 7}"} for at, text in enumerate(texts(60))])
    data = prepare(Data(source), checkpoint, "unembed", None, seed=0, max_length=5)
    counts = [len(part.labels) for part in data.splits.values()]
    assert sum(counts) <= 60 and all(counts) and all(part.example is not None for part in data.splits.values())
    assert data.identity["train"]["rows"] == len(data.splits["train"].labels)
