"""The tokenizer that transformers builds from a Hugging Face folder, and where the files of the folder disagree.

Which file counts depends on the class: BertTokenizer takes lower case, accents and what is put around a text from
tokenizer_config.json and its own defaults, and the vocabulary alone from tokenizer.json; PreTrainedTokenizerFast takes
tokenizer.json as it stands. So the class itself builds it. Code that a folder brings is never run, and AutoTokenizer is
not asked: it would hand all of config.json to the library, and import torch where that is installed.
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

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
STATED = (CONFIG, "special_tokens_map.json", "added_tokens.json")
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt")
"""what is read in place of tokenizer.json where there is none"""
CLASSES = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "roberta": "RobertaTokenizer"}
PLAIN = "PreTrainedTokenizerFast"
"""the class of tokenizer.json alone; transformers takes it too where it does not know the one that is named"""
SETTINGS = {
    "normalizer.lowercase": "do_lower_case",
    "normalizer.strip_accents": "strip_accents",
    "normalizer.handle_chinese_chars": "tokenize_chinese_chars",
    "pre_tokenizer.add_prefix_space": "add_prefix_space",
}
"""fields of tokenizer.json, and what tokenizer_config.json calls them"""
UNTOLD = ("type", "vocab", "merges", "trim_offsets")
"""fields of its parts that are told elsewhere, that every class takes from there, and that no token depends on"""


class Built(NamedTuple):
    """A `tokenizers.Tokenizer`, the side at which a long text is cut, {token: id} without the special tokens that
    transformers adds where the folder's files lack them, and what is to be said where those files disagree.
    """

    backend: "tokenizers.Tokenizer"
    side: str
    vocabulary: dict[str, int]
    notes: tuple[str, ...]


def build(folder: Path, config: dict) -> Built:
    """The tokenizer of a folder whose config.json says `config`.

    Raises: InputError where there is none, and where transformers cannot build it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected that of a checkpoint, with {FILE} or a vocabulary")
    stated = json_object(folder / CONFIG)
    kind = _class_of(folder, stated, config)
    _refuse_marks(folder)
    own = _own(folder)
    needed = [name for role, name in kind.vocab_files_names.items() if role != "tokenizer_file"]
    if own is None and not all((folder / name).is_file() for name in needed):
        raise InputError(
            f"{folder}: no tokenizer: expected {FILE}, or what transformers reads in its place for a {kind.__name__}, "
            f"{' and '.join(needed)}"
        )
    with _in_transformers(folder, kind.__name__):
        built = kind.from_pretrained(str(folder), local_files_only=True)
    backend, side = _bare(built.backend_tokenizer), built.truncation_side
    known = backend.get_vocab(with_added_tokens=False) if own is None else own.get_vocab(with_added_tokens=True)
    vocabulary = {token: at for token, at in backend.get_vocab(with_added_tokens=True).items() if token in known}
    told = [] if own is None else _differences(_fields(own), _fields(backend), stated)
    note = f"{folder}: its tokenizer files disagree, and what counts is what transformers builds from them: "
    return Built(backend, side, vocabulary, (note + "; ".join(told),) if told else ())


def json_object(path: Path) -> dict:
    """The JSON object in `path`; empty when there is no such file. Raises: InputError for anything else."""
    if not path.is_file():
        return {}
    try:
        found = parsed_file(path)
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a JSON object, but holds a {type(found).__name__}")
    return found


def _class_of(folder: Path, stated: dict, config: dict) -> Any:
    """The class that the files name, else that of the family."""
    named = stated.get("tokenizer_class")
    if named is None:
        named = config.get("tokenizer_class") or CLASSES.get(str(config.get("model_type")), PLAIN)
    with _in_transformers(folder, named):
        import transformers

        plain, found = getattr(transformers, PLAIN), None
        if isinstance(named, str):
            found = getattr(transformers, named, None) or getattr(transformers, named.removesuffix("Fast"), plain)
        found = plain if found is transformers.PreTrainedTokenizer else found
    if not (isinstance(found, type) and issubclass(found, plain)):
        raise InputError(
            f"{folder}: tokenizer_class {named!r} is no fast tokenizer of transformers, and no other is read. Where "
            f"{FILE} says all, name {PLAIN} in {CONFIG}"
        )
    return found


def _refuse_marks(folder: Path) -> None:
    """Refuse byte order marks in what transformers reads: it takes none for JSON, and for a part of the first token."""
    read = (FILE, *STATED) if (folder / FILE).is_file() else (*VOCABULARIES, *STATED)
    for name in read:
        if (folder / name).is_file() and (folder / name).read_bytes().startswith(codecs.BOM_UTF8):
            raise InputError(f"{folder / name} begins with a byte order mark; save it as UTF-8 without one")


@contextlib.contextmanager
def _in_transformers(folder: Path, name: object) -> Iterator[None]:
    """Turn whatever transformers raises in the block into an InputError, and keep it from printing."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no torch, on import
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # it raises what it likes for a bad folder
        reason = " ".join(str(error).split())
        raise InputError(
            f"{folder}: transformers cannot build a {name} from it: {reason}. Take the tokenizer's files from where "
            "the model came"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def _own(folder: Path) -> "tokenizers.Tokenizer | None":
    """The `tokenizers.Tokenizer` that tokenizer.json describes; None where there is no such file."""
    from tokenizers import Tokenizer

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return _bare(Tokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path}: not a readable tokenizer file: {error}") from None


def _bare(backend: "tokenizers.Tokenizer") -> "tokenizers.Tokenizer":
    """The tokenizer without the padding and truncation that a file may carry."""
    backend.no_padding()
    backend.no_truncation()
    return backend


def _fields(backend: "tokenizers.Tokenizer") -> dict[str, Any]:
    """What a `tokenizers.Tokenizer` does to texts: the kind of each part, its fields, and what is put around a pair."""
    content, found = json.loads(backend.to_str()), {}
    for part in ("normalizer", "pre_tokenizer", "model"):
        told = content[part] or {}
        found[part] = told.get("type")
        found |= {
            f"{part}.{name}": None if value == "" else value for name, value in told.items() if name not in UNTOLD
        }
    pair = backend.encode("", "")
    around = [at for at, special in enumerate(pair.special_tokens_mask) if special]
    tokens, types = (" ".join(str(values[at]) for at in around) for values in (pair.tokens, pair.type_ids))
    found["post_processor"] = f"{tokens} of types {types}" if around else None
    return found


def _differences(own: dict[str, Any], built: dict[str, Any], stated: dict) -> list[str]:
    """What tokenizer.json and tokenizer_config.json, or the class, say differently: both values, and which one counts.

    `own` and `built` are the `_fields` of tokenizer.json and of what the class makes of it.
    """
    told = []
    for field, value in own.items():
        part, setting = field.partition(".")[0], SETTINGS.get(field)
        if field != part and own[part] != built[part]:
            continue  # the whole part is another one
        asked = stated.get(setting)
        if value != built[field]:
            has = f"has {setting} {_shown(asked)}" if setting in stated else f"does not say {setting}"
            said = f" ({CONFIG} {has})" if setting else ""
            told.append(f"{field} is {_shown(value)} in {FILE}, {_shown(built[field])} counts{said}")
        elif asked is not None and asked != value:
            told.append(f"{setting} is {_shown(asked)} in {CONFIG}, {field} {_shown(value)} of {FILE} counts")
    return told


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
