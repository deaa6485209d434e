"""Token ids are those of transformers' AutoTokenizer, whichever file of a folder says what; nothing of it is run."""

import codecs
import json
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from fft.core.errors import InputError
from fft.data.backend import CLASSES, GENERIC_CLASS
from fft.data.rows import Rows
from fft.data.tokenize import EncodeOptions, encode, load_tokenizer, mask_id

TEXTS = ["The Café is Good 电影 x", "an Élite tree [SEP] cafe\u0301 <mask>", "good"]
PAIRS = ["Tree good good good", "É 中 [CLS]", "The"]
PIECES = [*"abcdefghijklmnopqrstuvwxyzTCGÉé电影中", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyzé影")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "the", "Good", "good", "tree", "cafe", *PIECES]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *ALPHABET, "oo", "Ġg", "Ġgoo", "goo"]
MERGES = [("o", "o"), ("Ġ", "g"), ("Ġg", "oo"), ("g", "oo")]


def bert(**normalizer):
    """A WordPiece tokenizer as tokenizer.json may describe it: cased, unless `normalizer` says otherwise."""
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**{"lowercase": False} | normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(WORDS[:5])
    return tokenizer


def roberta(prefix=False):
    """A byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(BYTES)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens(BYTES[:5])
    return tokenizer


def written(folder, tokenizer, family="bert", stated=None, change=None, **config):
    """A folder with a tokenizer.json, changed by `change`, the tokenizer_config.json `stated`, and a config.json."""
    folder.mkdir()
    content = json.loads(tokenizer.to_str()) | (change or {})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    if stated is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    if family is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": family, "pad_token_id": 0, **config}))
    return folder


def same_as_transformers(folder, length=64):
    """Compare the ids and token types of texts and of pairs, and return the tokenizer."""
    tokenizer, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for pairs in (None, PAIRS):
        rows = Rows(TEXTS, pairs, [0] * len(TEXTS), list(range(len(TEXTS))), "texts")
        ours, _ = encode(tokenizer, rows, np.zeros(len(TEXTS)), EncodeOptions(length, 10**6, 512))
        expected = theirs(TEXTS, pairs, truncation="longest_first", max_length=length, return_token_type_ids=True)
        assert [ids.tolist() for ids in ours.ids] == expected["input_ids"]
        types = expected["token_type_ids"] if tokenizer.typed else [[0] * len(ids) for ids in ours.ids]
        assert [each.tolist() for each in ours.types] == types
    return tokenizer


PADDED = {
    "padding": {
        **{"strategy": {"Fixed": 40}, "direction": "Left", "pad_to_multiple_of": None},
        **{"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    },
    "truncation": {"direction": "Left", "max_length": 6, "strategy": "LongestFirst", "stride": 0},
}
ADDED = {"id": len(WORDS), "content": "Café", **dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)}


@pytest.mark.parametrize(
    ("stated", "config", "said"),
    [
        (
            None,
            {},
            "normalizer.lowercase is false in tokenizer.json, true is used (tokenizer_config.json does not say ",
        ),
        ({"do_lower_case": False}, {}, None),
        ({"do_lower_case": True}, {}, "true is used (tokenizer_config.json has do_lower_case true)"),
        (
            {"do_lower_case": False, "strip_accents": True},
            {"family": "distilbert"},
            "normalizer.strip_accents is null in tokenizer.json, true is used",
        ),
        (
            {"do_lower_case": False, "tokenize_chinese_chars": False},
            {},
            "normalizer.handle_chinese_chars is true in tokenizer.json, false is used",
        ),
        (
            {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True},
            {},
            "do_lower_case is true in tokenizer_config.json, normalizer.lowercase false of tokenizer.json is used",
        ),
        ({"tokenizer_class": "TokenizersBackend"}, {}, None),
        ({"tokenizer_class": "DistilBertTokenizerFast", "do_lower_case": False}, {}, None),
        ({"tokenizer_class": "OurOwnTokenizer"}, {}, None),
        ({"tokenizer_class": "OurOwnTokenizer"}, {"family": None}, None),
        ({"tokenizer_class": "BertTokenizer"}, {"family": None}, "true is used"),
        ({}, {"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ({"do_lower_case": False}, {"change": {"post_processor": None}}, "[CLS] [SEP] [SEP] of types 0 0 1 is used"),
        ({"tokenizer_class": "TokenizersBackend"}, {"change": {"post_processor": None}}, None),
        (
            {"do_lower_case": False},
            {"change": {"pre_tokenizer": {"type": "Whitespace"}}},
            "pre_tokenizer is Whitespace in tokenizer.json, BertPreTokenizer is used",
        ),
        (
            {"do_lower_case": False},
            {"change": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}}},
            "normalizer is Sequence in tokenizer.json, BertNormalizer is used",
        ),
        ({"do_lower_case": False, "truncation_side": "left"}, {}, None),
        ({"do_lower_case": False}, {"change": PADDED}, None),
        ({"do_lower_case": False}, {"change": {"added_tokens": [ADDED | {"normalized": True}]}}, None),
        ({"do_lower_case": False, "split_special_tokens": True}, {}, None),
        ({"do_lower_case": False, "auto_map": {"AutoTokenizer": ["theirs.Own", None]}}, {}, None),
    ],
)
def test_the_ids_of_a_bert_folder_are_those_of_transformers(tmp_path, stated, config, said):
    folder = written(tmp_path / "m", bert(), stated=stated, **config)
    tokenizer = same_as_transformers(folder)
    same_as_transformers(folder, length=7)
    assert len(tokenizer.notes) == (said is not None), tokenizer.notes
    assert said is None or said in tokenizer.notes[0], tokenizer.notes


@pytest.mark.parametrize(
    ("prefix", "stated", "said"),
    [
        (False, None, None),
        (True, {}, "pre_tokenizer.add_prefix_space is true in tokenizer.json, false is used"),
        (False, {"add_prefix_space": True}, "false in tokenizer.json, true is used"),
        (
            True,
            {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False},
            "add_prefix_space is false in tokenizer_config.json, pre_tokenizer.add_prefix_space true of tokenizer.json",
        ),
    ],
)
def test_the_ids_of_a_roberta_folder_are_those_of_transformers(tmp_path, prefix, stated, said):
    tokenizer = same_as_transformers(written(tmp_path / "m", roberta(prefix), "roberta", stated))
    assert len(tokenizer.notes) == (said is not None) and (said is None or said in tokenizer.notes[0]), tokenizer.notes


@pytest.mark.parametrize("family", sorted(name for name, kind in CLASSES.items() if kind != GENERIC_CLASS))
@pytest.mark.parametrize("stated", [{}, {"do_lower_case": False, "add_prefix_space": True}])
def test_a_folder_with_vocabulary_files_alone(tmp_path, family, stated):
    folder = written(tmp_path / "m", bert(), family, stated)
    (folder / "tokenizer.json").unlink()
    roberta().model.save(str(folder))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    assert same_as_transformers(folder).notes == ()


DECODERS = ["llama", "granite", "olmo2", "mistral", "smollm3", "qwen2", "qwen3", "gemma", "gemma3_text", "gpt2"]


@pytest.mark.parametrize(
    "named", [None, "LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "GPT2Tokenizer"]
)
@pytest.mark.parametrize("family", DECODERS)
def test_the_ids_of_a_decoder_are_those_of_transformers(tmp_path, family, named):
    """Byte-level tokenizer.json files, as those of Llama 3, SmolLM2 and Qwen, under every class that files name."""
    same_as_transformers(written(tmp_path / "m", roberta(), family, {"tokenizer_class": named} if named else {}))


def test_what_transformers_adds_is_no_part_of_the_vocabulary(tmp_path):
    """BertTokenizer gives a mask token that the files lack the first free id, for which the model has no row."""
    words = [word for word in WORDS if word != "[MASK]"]
    folder = written(tmp_path / "m", bert(), stated={"do_lower_case": False})
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = load_tokenizer(folder, len(words))
    assert tokenizer.backend.token_to_id("[MASK]") == len(words) and max(tokenizer.vocabulary.values()) < len(words)
    with pytest.raises(InputError, match="no mask token"):
        mask_id(tokenizer)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"tokenizer_class": "AutoModel"}, "tokenizer_class 'AutoModel' is not a fast tokenizer of transformers"),
        ({"tokenizer_class": "BertweetTokenizer"}, "name PreTrainedTokenizerFast in tokenizer_config.json"),
        ({"tokenizer_class": "pipeline"}, "is not a fast tokenizer"),
        ({"tokenizer_class": 3}, "tokenizer_class 3 is not a fast tokenizer"),
        ({"do_lower_case": "yes"}, "transformers cannot build a BertTokenizer from it: 'str' object"),
        ([], r"tokenizer_config\.json must hold a JSON object, but holds a list"),
    ],
)
def test_what_transformers_cannot_read_is_refused(tmp_path, stated, message):
    folder = written(tmp_path / "m", bert(), stated=stated)
    with pytest.raises(InputError, match=message) as refused:
        load_tokenizer(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("family", "needed"), [("bert", "vocab.txt"), ("roberta", "vocab.json and merges.txt")])
def test_a_class_without_its_files_is_refused(tmp_path, family, needed):
    """transformers would read every text with a vocabulary of five tokens."""
    folder = written(tmp_path / "m", bert(), family, {})
    (folder / "tokenizer.json").unlink()
    (folder / {"bert": "vocab.json", "roberta": "vocab.txt"}[family]).write_text("{}")
    with pytest.raises(InputError, match=f"add tokenizer.json, or the files that transformers reads.*, {needed}$"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt"])
def test_byte_order_marks_are_named(tmp_path, name):
    """transformers reads none of these files with one, or takes it for a part of the first token."""
    folder = written(tmp_path / "m", bert(), stated={})
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    if name == "vocab.txt":
        (folder / name).write_bytes(codecs.BOM_UTF8 + (folder / name).read_bytes())
        load_tokenizer(folder)  # of a folder with tokenizer.json it is not read
        (folder / "tokenizer.json").unlink()
    else:
        (folder / name).write_bytes(codecs.BOM_UTF8 + (folder / name).read_bytes())
    with pytest.raises(InputError, match=rf"{name} begins with a byte order mark; save it as UTF-8 without one"):
        load_tokenizer(folder)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder: give that of a checkpoint"):
        load_tokenizer(tmp_path / "nowhere")


def test_an_unknown_token_that_the_vocabulary_lacks_is_one_message(tmp_path):
    tokenizer = load_tokenizer(written(tmp_path / "m", bert(), stated={"unk_token": "<nowhere>"}))
    with pytest.raises(InputError, match=r"its tokenizer cannot read new\.csv: WordPiece error"):
        encode(tokenizer, Rows(["ж"], None, [0], [1], "new.csv"), np.zeros(1), EncodeOptions(16, 10**6, 512))


def test_code_in_a_folder_is_not_run(tmp_path):
    mapped = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["theirs.Own", "theirs.Own"]}}
    folder = written(tmp_path / "m", bert(), None, mapped)
    (folder / "theirs.py").write_text("import sys\nsys.modules['ran'] = sys\n")
    assert load_tokenizer(folder).notes == () and "ran" not in sys.modules
