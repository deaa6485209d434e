"""The tokenizer in a GGUF file: its metadata as tokenizer.json, tokenizer_config.json and a chat template.

`tokenizer.ggml.model` is gpt2 for byte-level BPE, whose words `tokenizer.ggml.pre` names, or llama for
SentencePiece's BPE, whose merges follow from the scores of the tokens. The names and defaults are llama.cpp's; what
they mean in Hugging Face's files was read off the tokenizers of the models that they are of.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fft.core.errors import InputError
from fft.disk.files import write_json
from fft.models.files.gguf_file import AGAIN, GGUF

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEY = "tokenizer.ggml."
UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
"""kinds of tokens; 1 is an ordinary one"""
IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
"""special tokens by their names in Hugging Face's files: their keys"""
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""keys of tokens that end a text"""
CLASSES = {"qwen2": "Qwen2Tokenizer"}
"""architectures whose tokenizers transformers builds with a class of their own, whatever the file says"""
GENERIC_CLASS = "PreTrainedTokenizerFast"
SPACE = "▁"
CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_WORDS = CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2_WORDS = CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST


class Words(NamedTuple):
    """How byte-level BPE splits a text into words, each of which is merged by itself."""

    pattern: str | None = None
    """None is GPT-2's"""
    digits: bool = False
    """whether every digit is first split off"""
    composed: bool = False
    """whether the text is normalized to NFC first"""
    known: bool = False
    """whether a word that is a token is that token, whatever its merges give"""
    begins: bool = False
    """whether a text begins with the bos token, if the file does not say"""


LLAMA3 = Words(LLAMA3_WORDS, known=True, begins=True)
WORDS = {
    "gpt-2": Words(),
    "smollm": Words(digits=True),
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": Words(QWEN2_WORDS, composed=True),
    "deepseek-r1-qwen": Words(QWEN2_WORDS, composed=True),
}
"""tokenizer.ggml.pre: the words; transformers reads every Qwen2 model with those of qwen2"""


def named_ids(file: GGUF) -> dict[str, int]:
    """Return the ids of special tokens as the fields of config.json: `bos_token_id`, `eos_token_id`, `pad_token_id`.

    Raises: InputError for an id that no token has.
    """
    found = {f"{name}_token_id": _id(file, key) for name, key in IDS.items() if name != "unk"}
    return {field: number for field, number in found.items() if number is not None}


def write_tokenizer(file: GGUF, architecture: str, folder: Path) -> None:
    """Write the tokenizer's files, the chat template and generation_config.json into a folder.

    Raises: InputError for a tokenizer that is not known, and for metadata that contradict each other.
    """
    vocabulary = _vocabulary(file)
    special = {name: None if (at := _id(file, key)) is None else vocabulary.tokens[at] for name, key in IDS.items()}
    try:
        tokenizer, begins = _model(file, architecture, vocabulary)
        around = _around(file, special, begins)
        _add_special(tokenizer, vocabulary, set(special.values()))
        _put_around(tokenizer, [special[name] if adds else None for name, adds in around.items()])
    except InputError:
        raise
    except Exception as error:  # tokenizers raises bare Exception, for merges of other tokens for example
        raise InputError(f"{file.path}: no tokenizer can be built from its metadata: {error}") from None
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": CLASSES.get(architecture, GENERIC_CLASS),
        **{f"{name}_token": token for name, token in special.items()},
        **{f"add_{name}_token": True for name, adds in around.items() if adds},
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.metadata[f"{architecture}.context_length"],
    }
    write_json(folder / "tokenizer_config.json", config)
    if template := file.metadata.get("tokenizer.chat_template"):
        if not isinstance(template, str):
            raise InputError(f"{file.path}: tokenizer.chat_template must be a text, but is {template!r:.60}: {AGAIN}")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    ends = list(dict.fromkeys(at for key in ENDS if (at := _id(file, key)) is not None))
    write_json(folder / "generation_config.json", named_ids(file) | ({"eos_token_id": ends} if len(ends) > 1 else {}))


def _model(file: GGUF, architecture: str, vocabulary: "_Vocabulary") -> "tuple[Tokenizer, bool]":
    """Return the tokenizer without special tokens, and whether its texts begin with bos if the file does not say."""
    model, pre = (str(file.metadata.get(f"{KEY}{key}")) for key in ("model", "pre"))
    if model not in MODELS:
        raise InputError(f"{file.path}: the tokenizer {model!r} is not known; supported are {', '.join(MODELS)}")
    if architecture in CLASSES and (model != "gpt2" or WORDS.get(pre, Words()).pattern != QWEN2_WORDS):
        raise InputError(
            f"{file.path}: its tokenizer is {model} with the pre-tokenizer {pre}, but transformers reads that of every "
            f"{architecture} model as gpt2 with qwen2: get the model as a Hugging Face folder"
        )
    return MODELS[model](file, vocabulary)


def _around(file: GGUF, special: Mapping[str, str | None], begins: bool) -> dict[str, bool]:
    """Return whether a text begins with bos, and ends in eos. Raises: InputError for one that is not named."""
    defaults = {"bos": begins and special["bos"] is not None, "eos": False}
    around = {name: file.metadata.get(f"{KEY}add_{name}_token", default) for name, default in defaults.items()}
    for name, adds in around.items():
        if type(adds) is not bool:
            raise InputError(f"{file.path}: {KEY}add_{name}_token must be true or false, but is {adds!r}: {AGAIN}")
        if adds and special[name] is None:
            raise InputError(f"{file.path}: add_{name}_token is true, but there is no {IDS[name]}")
    return around


class _Vocabulary(NamedTuple):
    """The tokens in the order of their ids, their kinds and scores; `used` is {token: id} without fillers."""

    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    used: dict[str, int]


def _vocabulary(file: GGUF) -> _Vocabulary:
    """Return the vocabulary of a file. Raises: InputError if its lists are missing or do not fit together."""
    tokens = _list(file, "tokens", str)
    kinds = _list(file, "token_type", int)
    needed = file.metadata.get(f"{KEY}model") == "llama"  # its merges follow from them
    scores = _list(file, "scores", (int, float), None if needed else [0.0] * len(tokens))
    if not len(tokens) == len(kinds) == len(scores) or not tokens:
        raise InputError(f"{file.path} has {len(tokens)} tokens, but {len(kinds)} kinds and {len(scores)} scores")
    if not all(map(math.isfinite, scores)):
        raise InputError(f"{file.path}: {KEY}scores hold values that are not finite: {AGAIN}")
    named = {_id(file, key) for key in IDS.values()}
    used: dict[str, int] = {}
    for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if not token or (kind == UNUSED and number not in named):
            continue
        if token in used:
            raise InputError(f"{file.path}: two tokens are {token!r}, {used[token]} and {number}")
        used[token] = number
    return _Vocabulary(tokens, kinds, scores, used)


def _byte_level(file: GGUF, vocabulary: _Vocabulary) -> "tuple[Tokenizer, bool]":
    """Return byte-level BPE, and whether its texts begin with the bos token if the file does not say."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pre = str(file.metadata.get(f"{KEY}pre"))
    if pre not in WORDS:
        raise InputError(
            f"{file.path}: the pre-tokenizer {pre!r} (tokenizer.ggml.pre) is not known; supported are "
            f"{', '.join(WORDS)}: get the model as a Hugging Face folder"
        )
    if file.metadata.get(f"{KEY}add_space_prefix"):
        raise InputError(f"{file.path}: add_space_prefix is true, which is not known for a byte-level tokenizer")
    words, merges = WORDS[pre], _list(file, "merges", str)
    borders = [merge.find(" ", 1) for merge in merges]
    if -1 in borders:
        wrong = merges[borders.index(-1)]
        raise InputError(f"{file.path}: the merge {wrong!r:.60} is not of two tokens: {AGAIN}")
    pairs = [(merge[:at], merge[at + 1 :]) for merge, at in zip(merges, borders, strict=True)]
    tokenizer = Tokenizer(models.BPE(vocabulary.used, pairs, ignore_merges=words.known))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if words.digits else []
    steps += [pre_tokenizers.Split(Regex(words.pattern), "isolated")] if words.pattern else []
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words.pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, level]) if steps else level
    tokenizer.decoder = decoders.ByteLevel()
    if words.composed:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer, words.begins


def _sentencepiece(file: GGUF, vocabulary: _Vocabulary) -> "tuple[Tokenizer, bool]":
    """Return SentencePiece's BPE, whose texts begin with the bos token if the file does not say.

    As SentencePiece and llama.cpp do, it begins every text with a space, also one that begins with a space, and one
    behind a special token; the LlamaTokenizer of transformers 5 leaves it out there.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    unknown = _id(file, IDS["unk"])
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary.used,
            _merges(vocabulary),
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=BYTE in vocabulary.kinds,
        )
    )
    begins_with_space = file.metadata.get(f"{KEY}add_space_prefix", True)
    spaces = [normalizers.Prepend(SPACE)] if begins_with_space else []
    tokenizer.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", SPACE)])
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    steps += [decoders.Strip(" ", 1, 0)] if begins_with_space else []
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer, True


MODELS: "dict[Any, Callable[[GGUF, _Vocabulary], tuple[Tokenizer, bool]]]" = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
}


def _merges(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """Return the pairs of tokens that make a token, of the highest score first, in the order of transformers."""
    used, found = vocabulary.used, []
    for token, number in used.items():
        if vocabulary.kinds[number] not in (UNKNOWN, CONTROL, BYTE):
            pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
            score = vocabulary.scores[number]
            found += [(score, len(a), len(b), a, b) for a, b in pairs if a in used and b in used]
    return [(a, b) for *_, a, b in sorted(found, key=lambda merge: merge[:3], reverse=True)]


def _add_special(tokenizer: "Tokenizer", vocabulary: _Vocabulary, named: set[str | None]) -> None:
    """Let special tokens, and those that were added to the vocabulary, be found in a text as a whole."""
    from tokenizers import AddedToken

    special, added = [], []
    for token, number in vocabulary.used.items():
        if vocabulary.kinds[number] in (UNKNOWN, CONTROL) or token in named:
            special.append(AddedToken(token, normalized=False, special=True))
        elif vocabulary.kinds[number] == USER_DEFINED:
            added.append(AddedToken(token, normalized=False, special=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(added)


def _put_around(tokenizer: "Tokenizer", around: list[str | None]) -> None:
    """Let every text begin and end with these tokens."""
    from tokenizers import processors

    first, last = ([] if token is None else [token] for token in around)
    if first or last:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*first, "$A:0", *last],
            pair=[*first, "$A:0", *last, *(f"{token}:1" for token in first), "$B:1", *(f"{token}:1" for token in last)],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*first, *last}],
        )


def _list(file: GGUF, key: str, kind: Any, default: list | None = None) -> list:
    """Return a list of the tokenizer's metadata. Raises: InputError if it is missing or of something else."""
    value = file.metadata.get(f"{KEY}{key}", default)
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        raise InputError(f"{file.path} has no list {KEY}{key}: get the file again from the model's source")
    return value


def _id(file: GGUF, key: str) -> int | None:
    """Return the id of a special token, None if there is no such key. Raises: InputError if no token has it."""
    number, tokens = file.metadata.get(f"{KEY}{key}"), file.metadata.get(f"{KEY}tokens")
    if number is None:
        return None
    if type(number) is not int or not isinstance(tokens, list) or not 0 <= number < len(tokens):
        raise InputError(f"{file.path}: {KEY}{key} is {number!r}, which is the id of no token")
    return number
