"""Token ids are those of the folder's tokenizer, cut as asked, and never beyond the model's tables."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import models

from fft.core.errors import InputError
from fft.data.rows import Rows
from fft.data.tokenize import EncodeOptions, encode, load_tokenizer, text_notes, token_ids
from tests.helpers.tiny_tasks import WORDS, tokenizer_folder

V = len(WORDS)


def rows_of(texts, pairs=None):
    return Rows(texts, pairs, [0] * len(texts), list(range(11, 11 + len(texts))), "file.csv")


def encoded(tokenizer, rows, max_length=16, vocab_size=V, max_positions=64):
    return encode(
        tokenizer, rows, np.zeros(len(rows.texts), np.int32), EncodeOptions(max_length, vocab_size, max_positions)
    )


def test_single_texts(tmp_path):
    tokenizer = load_tokenizer(tokenizer_folder(tmp_path / "m"), V)
    found, cut = encoded(tokenizer, rows_of(["w0 w1 w2 w3 w4 w5", "w7", "nowhere"]))
    assert [ids.tolist() for ids in found.ids] == [[2, 4, 5, 6, 7, 8, 9, 3], [2, 11, 3], [2, 1, 3]]
    assert found.ids[0].dtype == found.types[0].dtype == np.int32
    assert found.numbers.tolist() == [11, 12, 13] and cut == 0 and tokenizer.pad_id == 0


@pytest.mark.parametrize(("model_type", "types"), [("bert", [0, 0, 0, 1, 1, 1]), ("roberta", [0] * 6)])
def test_pairs_and_token_types(tmp_path, model_type, types):
    tokenizer = load_tokenizer(tokenizer_folder(tmp_path / "m", model_type))
    found, _ = encoded(tokenizer, rows_of(["w0"], ["w1 w2"]))
    assert found.ids[0].tolist() == [2, 4, 3, 5, 6, 3]
    assert found.types[0].tolist() == types


def test_cut_longest_first_and_counted(tmp_path):
    tokenizer = load_tokenizer(tokenizer_folder(tmp_path / "m"))
    rows = rows_of(["w0 w1 w2 w3 w4 w5 w6", "w0"], ["w8 w9", "w8"])
    assert [len(ids) for ids in token_ids(tokenizer, rows)] == [12, 5]
    found, cut = encoded(tokenizer, rows, max_length=8)
    assert found.ids[0].tolist() == [2, 4, 5, 6, 3, 12, 13, 3] and cut == 1
    assert [len(ids) for ids in token_ids(tokenizer, rows)] == [12, 5]
    assert encoded(tokenizer, rows, max_length=12)[1] == 0


def controlled(folder):
    """A tokenizer that knows its special tokens in texts."""
    content = json.loads((tokenizer_folder(folder) / "tokenizer.json").read_text())
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": at, "content": word, **token} for at, word in enumerate(WORDS[:4])]
    (folder / "tokenizer.json").write_text(json.dumps(content | {"added_tokens": added}))
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    ("texts", "pairs", "notes"),
    [
        (["w0 w1 w2", "w3"], None, []),
        (["w0 " * 19, "gone"], None, ["5 % of the tokens are unknown to this vocabulary"]),
        (["w0 " * 20, "gone"], None, []),
        (["gone", "lost"], None, ["100 % of the tokens are unknown to this vocabulary"]),
        (["w0 [SEP] w1", "w2"], None, ["1 text holds [SEP], read as control tokens"]),
        (
            ["w0 [SEP][SEP]", "[CLS] w2 [SEP]", "[PAD] w1", "w3"],
            None,
            ["3 texts hold [PAD], [CLS], [SEP], read as control tokens"],
        ),
        (["w0", "w1"], ["w2", "w3 w4"], []),
        (["w0", "w1 [SEP]"], ["w2", "w3 w4"], ["1 text holds [SEP], read as control tokens"]),
    ],
)
def test_unknown_tokens_and_special_ones_in_texts_are_told(tmp_path, texts, pairs, notes):
    tokenizer = controlled(tmp_path / "m")
    found, _ = encoded(tokenizer, rows_of(texts, pairs), max_length=64)
    assert text_notes(tokenizer, found.ids, pairs is not None) == notes


def test_a_vocabulary_of_bytes_knows_every_token(tmp_path):
    tokenizer = load_tokenizer(tokenizer_folder(tmp_path / "m"))
    tokenizer.backend.model = models.BPE({letter: at for at, letter in enumerate("abcd")}, [])
    assert text_notes(tokenizer, [np.array([1, 2, 3])], False) == []


def test_lengths_and_ids_are_checked(tmp_path):
    folder = tokenizer_folder(tmp_path / "m")
    tokenizer = load_tokenizer(folder)
    with pytest.raises(InputError, match=r"max_length 65 is too large: give at most 64, the positions of "):
        encoded(tokenizer, rows_of(["w0"]), max_length=65)
    with pytest.raises(InputError, match="max_length 3 is too small: give at least 4"):
        encoded(tokenizer, rows_of(["w0"], ["w1"]), max_length=3)
    with pytest.raises(InputError, match=r"file\.csv, row 12: token 'w39' has id 43, the embedding table has 43 rows"):
        encoded(tokenizer, rows_of(["w0", "w1 w39"]), vocab_size=43)
    with pytest.raises(InputError, match="tokenizer is larger than the embedding table: token 'w39' has id 43"):
        load_tokenizer(folder, 43)


def test_a_text_without_tokens(tmp_path):
    folder = tokenizer_folder(tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    with pytest.raises(InputError, match=r"file\.csv, row 11: the text has no tokens"):
        encoded(load_tokenizer(folder), rows_of(["\t"]))


def test_pad_id(tmp_path):
    folder = tokenizer_folder(tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "roberta", "pad_token_id": 1}')
    assert load_tokenizer(folder).pad_id == 1
    (folder / "config.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"pad_token": {"__type": "AddedToken", "content": "[SEP]"}}')
    assert load_tokenizer(folder).pad_id == 3
    (folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(folder).pad_id == 0
    tokenizer_folder(tmp_path / "m", words=["none", *WORDS[1:]])
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="no padding token"):
        load_tokenizer(folder)


def test_no_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer: add tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="not a readable tokenizer file"):
        load_tokenizer(tmp_path)


def test_only_a_vocabulary(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*WORDS[:4], "good", "film", "##s", "[MASK]"]))
    (folder / "config.json").write_text('{"model_type": "bert", "pad_token_id": 0}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    found, _ = encoded(load_tokenizer(folder, 8), rows_of(["Good films"], ["film"]), vocab_size=8)
    assert found.ids[0].tolist() == [2, 4, 5, 6, 3, 5, 3]
    assert found.types[0].tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_minilm_as_in_transformers(minilm, tmp_path):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(minilm)
    rows = rows_of(["A gloriously, un-fun film!", "naïve 電影 " * 40], ["Réally? " * 30, "no"])
    found, cut = encoded(load_tokenizer(minilm, 30522), rows, 64, 30522, 512)
    for row, (text, pair) in enumerate(zip(rows.texts, rows.pairs, strict=True)):
        expected = theirs(text, pair, truncation="longest_first", max_length=64)
        assert found.ids[row].tolist() == expected["input_ids"]
        assert found.types[row].tolist() == expected["token_type_ids"]
    assert cut == 2
    copy = tmp_path / "m"
    copy.mkdir()
    for name in ("config.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(minilm / name, copy)
    again, _ = encoded(load_tokenizer(copy, 30522), rows, 64, 30522, 512)
    assert all((a == b).all() for a, b in zip(again.ids, found.ids, strict=True))
