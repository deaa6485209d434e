"""Tokenizers out of GGUF files: ids against plain loops, and against transformers' own GGUF loading where it is right.

transformers 5.23 splits smollm's words as GPT-2's, merges Llama 3's words that are tokens, does not normalize Qwen2's
texts, spells special tokens that are not ASCII anew, and begins SentencePiece's texts with a space only where they do
not begin with one or with a special token.
"""

import json
import unicodedata
from itertools import pairwise

import pytest
import regex
from transformers import AutoTokenizer

from fft import models
from fft.core.errors import InputError
from fft.data.tokenize import load_tokenizer
from tests.helpers.tiny_gguf import ALPHABET, BYTE_LEVEL, BYTES, MERGES, SENTENCEPIECE, TEMPLATE, TOKENS, make, write

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
REST = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ANY_CASE = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|"
PATTERNS = {
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "llama-bpe": (ANY_CASE + REST % 3,),
    "qwen2": (ANY_CASE + REST % 1,),
    "deepseek-r1-qwen": (ANY_CASE + REST % 1,),
}
"""llama.cpp's regular expressions; each splits further what the ones before it left"""
PLAIN = ["the hello, It's IT'S ok  ", "\n\n  ab\tll\r\n the", "café 東京 🗼 the", "hello", ""]
TEXTS = [*PLAIN, "12 123 1234567 a1", "cafe\u0301 ½ ² ٣٤"]
PROSE = ["the quick brown fox jumps over the lazy dog.", "  the  thing é 東 aaaa aaaaa", " ", "", "a", "in\nthe"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Conversions go to a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def torch_models():
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2}
    return {name: make(name, vocab_size=len(TOKENS), **sizes) for name in ("llama", "qwen2")}


@pytest.fixture
def convert(torch_models, tmp_path):
    """A function that writes a GGUF file with these metadata, and returns its path and its folder."""

    def apply(family="llama", **metadata):
        path = write(tmp_path / "a.gguf", torch_models[family], **keys(metadata))
        return path, models.find_folder(path)

    return apply


def keys(metadata):
    """{key: value} of the tokenizer's metadata without their common beginning, as {whole key: value}."""
    return {name if "." in name else f"tokenizer.ggml.{name}": value for name, value in metadata.items()}


def byte_level(text, pre):
    """The ids of byte-level BPE in plain loops."""
    words = [text]
    for pattern in PATTERNS[pre]:
        words = [part for word in words for part in regex.findall(rf"{pattern}|[\s\S]+?(?={pattern}|$)", word)]
    ids = []
    for word in words:
        letters = [spelled(byte) for byte in word.encode()]
        whole = "".join(letters)
        if pre == "llama-bpe" and whole in BYTES:
            ids.append(BYTES.index(whole))
            continue
        while ranks := [r for r in map(rank, pairwise(letters)) if r is not None]:
            pair = tuple(MERGES[min(ranks)].split(" "))
            at = next(i for i in range(len(letters)) if tuple(letters[i : i + 2]) == pair)
            letters[at : at + 2] = ["".join(pair)]
        ids += [BYTES.index(letter) for letter in letters]
    return ids


def spelled(byte):
    """The letter for a byte: itself if it can be seen, else the next one from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in shown else chr(256 + [other for other in range(256) if other not in shown].index(byte))


def rank(pair):
    merge = " ".join(pair)
    return MERGES.index(merge) if merge in MERGES else None


def sentencepiece(text, space=True):
    """The ids of SentencePiece's BPE in plain loops: of all pairs the one that makes the best token is joined."""
    scores = SENTENCEPIECE["tokenizer.ggml.scores"]
    text = text.replace(" ", "▁")
    symbols = list("▁" + text if space and text else text)
    while True:
        joined = ["".join(pair) for pair in pairwise(symbols)]
        best = max((scores[TOKENS.index(token)] for token in joined if token in TOKENS), default=None)
        if best is None:
            break
        at = next(i for i, token in enumerate(joined) if token in TOKENS and scores[TOKENS.index(token)] == best)
        symbols[at : at + 2] = [joined[at]]
    ids = [[TOKENS.index(s)] if s in TOKENS else [3 + byte for byte in s.encode()] for s in symbols]
    return [number for part in ids for number in part]


def of_all(path, folder, text):
    """The ids of a text: fft's, which are those that transformers reads from the folder, and of its GGUF loading."""
    ours = load_tokenizer(folder).backend.encode(text).ids
    assert AutoTokenizer.from_pretrained(folder).encode(text) == ours
    return ours, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).encode(text)


def test_the_letters_are_all_bytes():
    assert sorted(map(spelled, range(256))) == sorted(ALPHABET) and len(set(ALPHABET)) == 256


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("pre", PATTERNS)
def test_byte_level_words(pre, family, convert):
    if family == "qwen2" and "qwen" not in pre:
        return
    path, folder = convert(family, pre=pre)
    for text in TEXTS:
        composed = unicodedata.normalize("NFC", text) if "qwen" in pre else text
        ours, theirs = of_all(path, folder, text)
        assert ours == byte_level(composed, pre), text
        wrong = {"smollm": "1" in text, "llama-bpe": "hello" in text}.get(pre, composed != text)
        assert wrong or theirs == ours, text
        assert load_tokenizer(folder).backend.decode(ours) == composed
    for text in ("<|im_start|>hello<|im_end|> <think>the", "<|endoftext|>"):
        ours, theirs = of_all(path, folder, text)
        assert theirs == ours or pre == "llama-bpe"
    assert ours == [0] and load_tokenizer(folder).backend.decode([0, 3]) == "<think>", "special tokens are left out"


def test_sentencepiece(convert):
    metadata = {"merges": None, "pre": None, "add_bos_token": None, "padding_token_id": None}
    path, folder = convert(**{**SENTENCEPIECE, **metadata})
    assert json.loads((folder / "tokenizer_config.json").read_text())["pad_token"] is None
    for text in PROSE:
        ours, theirs = of_all(path, folder, text)
        assert ours == [1, *sentencepiece(text)], text
        assert theirs == ours or text.startswith(" "), text
        assert load_tokenizer(folder).backend.decode(ours) == text
    ours, _ = of_all(path, folder, "<s>the</s> fox<extra>the")
    the, extra = sentencepiece("the"), len(TOKENS) - 1
    assert ours == [1, 1, *the, 2, *sentencepiece(" fox"), extra, *the]
    path, folder = convert(**{**SENTENCEPIECE, **metadata}, add_space_prefix=False, add_eos_token=True)
    for text in PROSE:
        assert of_all(path, folder, text)[0] == [1, *sentencepiece(text, space=False), 2]


def test_the_tokens_around_a_text(convert):
    """A text of Llama 3 begins with bos unless the file says otherwise; one of the others does if it says so."""
    llama3 = {"pre": "llama-bpe", "add_bos_token": None}
    for given, around in (
        (llama3, (1, None)),
        ({**llama3, "add_bos_token": False}, (None, None)),
        ({**llama3, "bos_token_id": None}, (None, None)),
        ({"pre": "gpt-2", "add_bos_token": True, "add_eos_token": True}, (1, 2)),
    ):
        _, folder = convert(**given)
        first, last = ([] if token is None else [token] for token in around)
        backend, middle = load_tokenizer(folder).backend, byte_level("the", "gpt-2")
        assert backend.encode("the").ids == [*first, *middle, *last]
        assert backend.encode("the", "the").ids == 2 * [*first, *middle, *last]
        assert AutoTokenizer.from_pretrained(folder).encode("the") == [*first, *middle, *last]
        config = json.loads((folder / "tokenizer_config.json").read_text())  # which converters to GGUF read
        assert (config.get("add_bos_token"), config.get("add_eos_token")) == (bool(first) or None, bool(last) or None)


def test_special_tokens_that_are_not_ascii(convert):
    """DeepSeek's models of Qwen2 have some; its files also have fillers, which are not tokens."""
    begin = "<｜begin▁of▁sentence｜>"
    tokens, kinds = [begin, *BYTES[1:], "[PAD277]"], [*BYTE_LEVEL["tokenizer.ggml.token_type"], 5]
    given = {"tokens": tokens, "token_type": kinds, "bos_token_id": 0, "add_bos_token": True, "eot_token_id": 1}
    path, folder = convert("qwen2", pre="deepseek-r1-qwen", **given)
    ours, theirs = of_all(path, folder, f"the{begin}")
    assert ours == [0, *byte_level("the", "qwen2"), 0] != theirs
    assert load_tokenizer(folder).vocabulary[begin] == 0 and "[PAD277]" not in load_tokenizer(folder).vocabulary
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 1]


def test_the_chat_template(convert):
    _, folder = convert()
    messages = [{"role": "user", "content": "the"}]
    assert AutoTokenizer.from_pretrained(folder).apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>the<|im_end|>"
    )
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    _, folder = convert(**{"tokenizer.chat_template": None})
    assert not (folder / "chat_template.jinja").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "bert"}, "the tokenizer 'bert' is not known; supported are gpt2, llama"),
        ({"model": None}, "the tokenizer 'None' is not known"),
        (
            {"pre": "tekken"},
            r"the pre-tokenizer 'tekken' \(tokenizer.ggml.pre\) is not known; supported are gpt-2, smollm",
        ),
        ({"pre": None}, "the pre-tokenizer 'None'"),
        ({"add_space_prefix": True}, "add_space_prefix is true, which is not known for a byte-level tokenizer"),
        ({"tokens": None}, r"has no list tokenizer\.ggml\.tokens|which is the id of no token"),
        ({"tokens": [*BYTES, "the", "the"], "token_type": [1] * 278}, "two tokens are 'the', 276 and 277"),
        ({"token_type": [1, 1]}, "has 276 tokens, but 2 kinds and 276 scores"),
        ({"merges": ["the hello"]}, "no tokenizer can be built from its metadata"),
        ({"merges": None}, "has no list tokenizer.ggml.merges"),
        ({"merges": ["the"]}, "the merge 'the' is not of two tokens"),
        ({"token_type": None}, "has no list tokenizer.ggml.token_type"),
        ({**SENTENCEPIECE, "scores": None}, "has no list tokenizer.ggml.scores"),
        ({**SENTENCEPIECE, "scores": [float("nan")] * len(TOKENS)}, "scores hold values that are not finite"),
        ({"add_bos_token": "no"}, "add_bos_token must be true or false, but is 'no'"),
        ({"tokenizer.chat_template": 5}, "chat_template must be a text, but is 5"),
        ({"eos_token_id": 276}, "tokenizer.ggml.eos_token_id is 276, which is the id of no token"),
        ({"bos_token_id": None, "add_bos_token": True}, "add_bos_token is true, but there is no bos_token_id"),
        (
            {"tokens": [*BYTES, *(f"x{at}" for at in range(99))], "token_type": [1] * 375},
            "has 375 tokens, but embeddings of",
        ),
    ],
)
def test_what_is_refused(given, message, convert):
    with pytest.raises(InputError, match=rf"a\.gguf.*{message}"):
        convert(**given)


def test_a_tokenizer_that_transformers_would_replace_is_refused(convert):
    for given in ({"pre": "llama-bpe"}, {**SENTENCEPIECE, "merges": None}):
        with pytest.raises(InputError, match="but transformers reads that of every qwen2 model as gpt2 with qwen2"):
            convert("qwen2", **given)
