"""Builds the tokenizer of a Hugging Face folder with transformers, and reports where the folder's files disagree.

Which file takes precedence depends on the class. BertTokenizer reads only the vocabulary from tokenizer.json, and takes
lower-casing, accents and special tokens from tokenizer_config.json and its own defaults. PreTrainedTokenizerFast uses
tokenizer.json unchanged. So the class itself builds the tokenizer. Code in the folder is never run. AutoTokenizer is
avoided: it would pass all of config.json to the library, and import torch if that is installed.
"""

import codecs
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fft.core.errors import InputError
from fft.disk.files import parsed_file

if TYPE_CHECKING:
    import tokenizers
    import transformers

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
CONFIG_FILES = (CONFIG, "special_tokens_map.json", "added_tokens.json")
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt")
"""read if there is no tokenizer.json"""
GENERIC_CLASS = "PreTrainedTokenizerFast"
"""the class that uses tokenizer.json alone, also for class names that transformers does not know"""
CLASSES = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "roberta": "RobertaTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "granite": GENERIC_CLASS,
    "mistral": GENERIC_CLASS,
    "modernbert": GENERIC_CLASS,
    "olmo2": GENERIC_CLASS,
}
"""the class that transformers has for a model_type; with the generic one, the files' own is not used"""
OWN_ALWAYS = ("qwen2",)
"""model_types whose files often name a wrong class, so that transformers takes that of CLASSES"""
BYTE_LEVEL = '"ByteLevel"'
"""in a tokenizer.json that transformers does not let a LlamaTokenizer read, which would replace its pre-tokenizer"""
SETTINGS = {
    "normalizer.lowercase": "do_lower_case",
    "normalizer.strip_accents": "strip_accents",
    "normalizer.handle_chinese_chars": "tokenize_chinese_chars",
    "pre_tokenizer.add_prefix_space": "add_prefix_space",
}
"""fields of tokenizer.json: the corresponding settings of tokenizer_config.json"""
IGNORED = ("type", "vocab", "merges", "trim_offsets")
"""fields to leave out of the comparison: reported elsewhere, read by every class alike, or without effect on tokens"""


class Built(NamedTuple):
    """A tokenizer as transformers builds it.

    `side` is where long texts are cut, `vocabulary` is {token: id} without special tokens that only transformers adds,
    `notes` report where the folder's files disagree, and `source` is the tokenizer of transformers.
    """

    backend: "tokenizers.Tokenizer"
    side: str
    vocabulary: dict[str, int]
    notes: tuple[str, ...]
    source: "transformers.PreTrainedTokenizerFast"


def build(folder: Path, config: dict) -> Built:
    """Build the tokenizer of a folder whose config.json holds `config`.

    Raises: InputError if the folder has no tokenizer, or transformers cannot build it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give that of a checkpoint, with {FILE} or a vocabulary")
    settings = json_object(folder / CONFIG)
    kind = _class_of(folder, settings, config)
    _refuse_marks(folder)
    own = _own(folder)
    needed = [name for role, name in kind.vocab_files_names.items() if role != "tokenizer_file"]
    if own is None and not all((folder / name).is_file() for name in needed):
        raise InputError(
            f"{folder}: no tokenizer: add {FILE}, or the files that transformers reads instead for a {kind.__name__}, "
            f"{' and '.join(needed)}"
        )
    with _in_transformers(folder, kind.__name__):
        built = kind.from_pretrained(str(folder), local_files_only=True)
    backend, side = _bare(built.backend_tokenizer), built.truncation_side
    known = backend.get_vocab(with_added_tokens=False) if own is None else own.get_vocab(with_added_tokens=True)
    vocabulary = {
        token: number for token, number in backend.get_vocab(with_added_tokens=True).items() if token in known
    }
    differences = [] if own is None else _differences(_fields(own), _fields(backend), settings)
    note = f"{folder}: its tokenizer files disagree; the tokenizer that transformers builds from them is used: "
    return Built(backend, side, vocabulary, (note + "; ".join(differences),) if differences else (), built)


def json_object(path: Path) -> dict:
    """Load the JSON object in `path`; empty if there is no such file. Raises: InputError for any other content."""
    if not path.is_file():
        return {}
    try:
        content = parsed_file(path)
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, but holds a {type(content).__name__}")
    return content


def _class_of(folder: Path, settings: dict, config: dict) -> Any:
    """Return the tokenizer class that AutoTokenizer of transformers 5.23 chooses. Raises: InputError."""
    own, named = CLASSES.get(str(config.get("model_type"))), settings.get("tokenizer_class")
    if named is None:
        named = config.get("tokenizer_class") or own or GENERIC_CLASS
    if config.get("model_type") in OWN_ALWAYS:
        named = own
    if own == GENERIC_CLASS or (str(named).removesuffix("Fast") == "LlamaTokenizer" and _is_byte_level(folder)):
        named = GENERIC_CLASS
    with _in_transformers(folder, named):
        import transformers

        generic, kind = getattr(transformers, GENERIC_CLASS), None
        if isinstance(named, str):
            kind = getattr(transformers, named, None) or getattr(transformers, named.removesuffix("Fast"), generic)
        kind = generic if kind is transformers.PreTrainedTokenizer else kind
    if not (isinstance(kind, type) and issubclass(kind, generic)):
        raise InputError(
            f"{folder}: tokenizer_class {named!r} is not a fast tokenizer of transformers, the only kind supported. If "
            f"{FILE} is complete, name {GENERIC_CLASS} in {CONFIG}"
        )
    return kind


def _is_byte_level(folder: Path) -> bool:
    path = folder / FILE
    return path.is_file() and BYTE_LEVEL in path.read_text(encoding="utf-8", errors="replace")


def _refuse_marks(folder: Path) -> None:
    """Reject byte order marks: to transformers they are invalid JSON, or part of the first token.

    Raises: InputError.
    """
    read = (FILE, *CONFIG_FILES) if (folder / FILE).is_file() else (*VOCABULARIES, *CONFIG_FILES)
    for name in read:
        if (folder / name).is_file() and (folder / name).read_bytes().startswith(codecs.BOM_UTF8):
            raise InputError(f"{folder / name} begins with a byte order mark; save it as UTF-8 without one")


@contextlib.contextmanager
def _in_transformers(folder: Path, name: object) -> Iterator[None]:
    """Turn any exception of transformers in the block into an InputError, and silence its log."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # silences "no torch" on import
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # for a bad folder it raises exceptions of many types
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}: transformers cannot build a {name} from it: {reason}. Copy the tokenizer's files from the "
            "model's source"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def _own(folder: Path) -> "tokenizers.Tokenizer | None":
    """Load tokenizer.json unchanged; None if there is no such file. Raises: InputError."""
    from tokenizers import Tokenizer

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return _bare(Tokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"{path}: not a readable tokenizer file: {error}. Copy it again from the model's source"
        ) from None


def _bare(backend: "tokenizers.Tokenizer") -> "tokenizers.Tokenizer":
    """Return the tokenizer without padding and truncation, which its file may set."""
    backend.no_padding()
    backend.no_truncation()
    return backend


def _fields(backend: "tokenizers.Tokenizer") -> dict[str, Any]:
    """The settings of a `tokenizers.Tokenizer`: the type and fields of each part, and the special tokens of a pair."""
    content, fields = json.loads(backend.to_str()), {}
    for part in ("normalizer", "pre_tokenizer", "model"):
        settings = content[part] or {}
        fields[part] = settings.get("type")
        fields |= {
            f"{part}.{name}": None if value == "" else value for name, value in settings.items() if name not in IGNORED
        }
    pair = backend.encode("", "")
    around = [place for place, special in enumerate(pair.special_tokens_mask) if special]
    tokens, types = (" ".join(str(values[place]) for place in around) for values in (pair.tokens, pair.type_ids))
    fields["post_processor"] = f"{tokens} of types {types}" if around else None
    return fields


def _differences(own: dict[str, Any], built: dict[str, Any], settings: dict) -> list[str]:
    """Describe where tokenizer.json disagrees with tokenizer_config.json or the class: both values, and the one in use.

    `own` and `built` are the `_fields` of tokenizer.json and of the tokenizer that the class builds from it.
    """
    notes = []
    for field, value in own.items():
        part, setting = field.partition(".")[0], SETTINGS.get(field)
        if field != part and own[part] != built[part]:
            continue  # the part itself is replaced, which has its own note
        configured = settings.get(setting)
        if value != built[field]:
            has = f"has {setting} {_shown(configured)}" if setting in settings else f"does not say {setting}"
            remark = f" ({CONFIG} {has})" if setting else ""
            notes.append(f"{field} is {_shown(value)} in {FILE}, {_shown(built[field])} is used{remark}")
        elif configured is not None and configured != value:
            notes.append(f"{setting} is {_shown(configured)} in {CONFIG}, {field} {_shown(value)} of {FILE} is used")
    return notes


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
