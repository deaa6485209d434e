"""Encodes texts as token ids with the tokenizer of a Hugging Face folder, checked against the model's embeddings.

On a device, an id beyond the embedding table does not fail: it reads the last row, or gives NaN.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.naming import agreeing, counted
from fft.data.backend import CONFIG, build, json_object
from fft.data.encoded import Encoded
from fft.data.missing import missing_texts
from fft.data.rows import Rows

if TYPE_CHECKING:
    import tokenizers
    import transformers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>", "<mask>")
NAME_PADDING = (None, "bert", "distilbert", "roberta")  # other files often name no padding token: the mask is enough
TYPED_FAMILIES = ("bert",)  # the others have no token types, or only type 0
MANY_UNKNOWN = 0.05  # share of tokens; emoji and rare letters stay below it


class Tokenizer(NamedTuple):
    """A `tokenizers.Tokenizer` without padding and truncation, and the settings that batches need.

    `typed` is whether the model has token types; `vocabulary` is {token: id}, as in `fft.data.backend.Built`; `side` is
    where long texts are cut, left or right; `notes` report where the folder's files disagree; `source` is the tokenizer
    of transformers, which has the chat template; `template` is the file it is from, None for the folder's own.
    """

    backend: "tokenizers.Tokenizer"
    pad_id: int
    typed: bool
    folder: Path
    vocabulary: dict[str, int]
    side: str
    notes: tuple[str, ...]
    source: "transformers.PreTrainedTokenizerFast"
    template: str | None = None
    __repr__ = brief


def load_tokenizer(folder: Path | str, vocab_size: int | None = None) -> Tokenizer:
    """Load the tokenizer of a Hugging Face folder, as transformers builds it.

    Raises: InputError if there is none, if it cannot be read, or if it has ids >= `vocab_size` (V, the rows of the
    embedding table).
    """
    folder = Path(folder)
    config = json_object(folder / "config.json")
    built = build(folder, config)
    token, top = max(built.vocabulary.items(), key=lambda item: item[1], default=("", -1))
    if vocab_size is not None and top >= vocab_size:
        raise InputError(
            f"{folder}: the tokenizer is larger than the embedding table: token {token!r} has id {top}, the table has "
            f"{vocab_size} rows. Use the tokenizer this model was trained with, or resize the table first."
        )
    typed = config.get("model_type") in TYPED_FAMILIES and config.get("type_vocab_size", 2) > 1
    pad_id = _pad_id(folder, built.vocabulary, config)
    return Tokenizer(built.backend, pad_id, typed, folder, built.vocabulary, built.side, built.notes, built.source)


class EncodeOptions(NamedTuple):
    """How rows are encoded, and the limits of the model that reads them."""

    max_length: int
    """rows are cut to so many tokens"""
    vocab_size: int
    """V, the rows of the embedding table"""
    max_positions: int
    """the most tokens that the model can read"""
    numbers: bool = False
    """whether class numbers are accepted in place of the names of classes"""
    supervise: Literal["answers", "all"] = "answers"
    """the tokens of a conversation, or of a prompt with its completion, that are targets"""
    cut: Literal["end", "start", "split"] = "end"
    """where a conversation, or a prompt with its completion, is cut that is too long, or whether it is split"""


def encode(tokenizer: Tokenizer, rows: Rows, labels: np.ndarray, options: EncodeOptions) -> tuple[Encoded, int]:
    """Return the token ids of every row and the number of rows that were cut.

    Rows are cut to `options.max_length` tokens, pairs in their longer text first.

    Raises: InputError if max_length exceeds the model's positions or leaves no room for text, for a text without
    tokens, and for an id that the embedding table lacks.
    """
    backend, max_length = tokenizer.backend, options.max_length
    special = backend.num_special_tokens_to_add(rows.pairs is not None)
    refuse_length(tokenizer, options)
    if max_length <= special:
        raise InputError(
            f"max_length {max_length} is too small: give at least {special + 1}, as {special} are special tokens"
        )
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.side)
    try:
        encodings = _encodings(tokenizer, rows)
    finally:
        backend.no_truncation()
    ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
    for row, (number, row_ids) in enumerate(zip(rows.numbers, ids, strict=True)):
        if not len(row_ids):
            raise InputError(
                f"{rows.source}, row {number}: the text has no tokens: {rows.texts[row]!r}. Remove the row"
            )
        refuse_unknown(f"{rows.source}, row {number}", row_ids, tokenizer, options.vocab_size)
    types = [np.array(e.type_ids, np.int32) * np.int32(tokenizer.typed) for e in encodings]
    cut = sum(bool(encoding.overflowing) for encoding in encodings)
    return Encoded(ids, types, np.asarray(labels), np.array(rows.numbers, np.int64)), cut


def encode_texts(
    tokenizer: Tokenizer, rows: Rows, labels: np.ndarray, options: EncodeOptions
) -> tuple[Encoded, list[str]]:
    """Return the token ids of every row, as `encode`, and notes on the texts and on those that were cut."""
    encoded, cut = encode(tokenizer, rows, labels, options)
    notes = [*missing_texts(rows), *text_notes(tokenizer, encoded.ids, rows.pairs is not None)]
    if cut:
        total, are = counted(len(rows.texts), "text"), agreeing(cut, "is", "are")
        notes.append(f"{cut:,} of {total} {are} longer than {options.max_length} tokens and {are} cut")
    return encoded, notes


def refuse_length(tokenizer: Tokenizer, options: EncodeOptions) -> None:
    """Refuse a max_length of more tokens than the model can read. Raises: InputError."""
    if options.max_length > options.max_positions:
        raise InputError(
            f"max_length {options.max_length} is too large: give at most {options.max_positions}, the positions of "
            f"{tokenizer.folder}"
        )


def refuse_unknown(where: str, ids: np.ndarray, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse ids [T] beyond the embedding table. Raises: InputError that names a token."""
    if len(ids) and ids.max() >= vocab_size:
        token = tokenizer.backend.id_to_token(int(ids.max()))
        raise InputError(
            f"{where}: token {token!r} has id {ids.max()}, the embedding table has {vocab_size} rows: remove the token "
            "from the text, or use the tokenizer this model was trained with"
        )


def encode_plain(tokenizer: Tokenizer, texts: Sequence[str], source: str, *, special: bool) -> list[np.ndarray]:
    """Return the uncut ids of texts, int32 [T_i] each; `special`: with the tokens that begin and end a text.

    Raises: InputError for a text that the tokenizer cannot read.
    """
    try:
        encodings = tokenizer.backend.encode_batch(list(texts), add_special_tokens=special)
    except Exception as error:  # tokenizers raises bare Exception, as for a vocabulary without the unknown token
        raise InputError(f"{tokenizer.folder}: its tokenizer cannot read {source}: {error}") from None
    return [np.array(encoding.ids, np.int32) for encoding in encodings]


def token_ids(tokenizer: Tokenizer, rows: Rows) -> list[np.ndarray]:
    """Return the uncut token ids of every row, special tokens included, int32 [T_i] each."""
    return [np.array(encoding.ids, np.int32) for encoding in _encodings(tokenizer, rows)]


def text_notes(tokenizer: Tokenizer, ids: list[np.ndarray], pairs: bool) -> list[str]:
    """Return notes on texts, or `pairs`, by their ids: many unknown tokens, and special tokens in the text."""
    backend = tokenizer.backend
    around = backend.encode("", "" if pairs else None).ids
    flat, ends = np.concatenate(ids), np.cumsum([len(row) for row in ids])
    share = np.sum(flat == unknown_id(backend)) / max(1, len(flat) - len(around) * len(ids))

    def holders(number: int) -> np.ndarray:
        rows = np.searchsorted(ends, np.flatnonzero(flat == number), side="right")
        return np.flatnonzero(np.bincount(rows, minlength=len(ids)) > around.count(number))

    rows_with = {token: rows for at, token in _special(backend).items() if len(rows := holders(at))}
    return _token_notes(share, len(set().union(*rows_with.values())), rows_with, "text")


def language_notes(tokenizer: Tokenizer, rows: Rows, ids: Iterable[np.ndarray], unit: str) -> list[str]:
    """Return the notes of `text_notes` on rows of a language task, the `ids` of which have special tokens around them.

    Special tokens are sought in the text itself: those that a chat template or the end of a text adds are none of it.
    """
    backend = tokenizer.backend
    share, special = np.mean(np.concatenate(list(ids)) == unknown_id(backend)), _special(backend).values()
    pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
    texts = rows.texts if rows.pairs is None else [*map("\n".join, zip(rows.texts, rows.pairs, strict=True))]
    holders = [found for text in texts if (found := set(pattern.findall(text)))]
    return _token_notes(share, len(holders), [token for token in special if any(token in of for of in holders)], unit)


def _special(backend: "tokenizers.Tokenizer") -> dict[int, str]:
    """Return the special tokens by id, in its order, without the unknown token."""
    added, unknown = sorted(backend.get_added_tokens_decoder().items()), unknown_id(backend)
    return {at: token.content for at, token in added if token.special and at != unknown}


def _token_notes(unknown: float, holders: int, tokens: Iterable[str], unit: str) -> list[str]:
    """Return notes on the share of `unknown` tokens, if it is large, and on `holders` of special tokens, if any."""
    notes = []
    if unknown >= MANY_UNKNOWN:
        notes.append(f"{100 * unknown:.0f} % of the tokens are unknown to this vocabulary")
    if holders:
        held = counted(holders, f"{unit} holds", f"{unit}s hold")
        notes.append(f"{held} {', '.join(tokens)}, read as control tokens")
    return notes


def unknown_id(backend: "tokenizers.Tokenizer") -> int | None:
    """Return the id of the unknown token; None if the vocabulary can spell every word."""
    token = getattr(backend.model, "unk_token", None)
    return None if token is None else backend.token_to_id(token)


def _encodings(tokenizer: Tokenizer, rows: Rows) -> "list[tokenizers.Encoding]":
    """Encode every row, cut as the backend is configured. Raises: InputError."""
    inputs = rows.texts if rows.pairs is None else list(zip(rows.texts, rows.pairs, strict=True))
    try:
        return tokenizer.backend.encode_batch(inputs)
    except Exception as error:  # tokenizers raises bare Exception, as for a vocabulary without the unknown token
        raise InputError(f"{tokenizer.folder}: its tokenizer cannot read {rows.source}: {error}") from None


def _pad_id(folder: Path, vocabulary: dict[str, int], config: dict) -> int:
    """Return the model's pad_token_id, else the id of the tokenizer's pad token; 0 for a decoder with neither.

    Raises: InputError for an encoder with neither.
    """
    if isinstance(config.get("pad_token_id"), int):
        return config["pad_token_id"]
    if (number := _token_id(folder, vocabulary, "pad_token", ("[PAD]", "<pad>"))) is not None:
        return number
    if config.get("model_type") not in NAME_PADDING:
        return 0
    raise InputError(
        f"{folder}: no padding token: give config.json a pad_token_id, or tokenizer_config.json a pad_token"
    )


def mask_id(tokenizer: Tokenizer) -> int:
    """Return the id of the mask token. Raises: InputError if the tokenizer has none."""
    number = _token_id(tokenizer.folder, tokenizer.vocabulary, "mask_token", ("[MASK]", "<mask>"))
    if number is None:
        raise InputError(
            f"{tokenizer.folder}: the tokenizer has no mask token, so nothing can be masked: use a checkpoint with one"
        )
    return number


def end_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of the token that ends a text: the tokenizer's eos_token, else config.json's; None for neither."""
    if (number := _token_id(tokenizer.folder, tokenizer.vocabulary, "eos_token", ())) is not None:
        return number
    stated = json_object(tokenizer.folder / "config.json").get("eos_token_id")
    stated = stated[0] if isinstance(stated, list) and stated else stated
    return stated if isinstance(stated, int) else None


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids of special tokens: padding, mask, unknown, and those that begin and end a row."""
    added = {at for at, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
    named = {tokenizer.vocabulary[name] for name in SPECIAL if name in tokenizer.vocabulary}
    return frozenset(added | named | {tokenizer.pad_id, mask_id(tokenizer)})


def first_difference(left: Tokenizer, right: Tokenizer) -> tuple[int, str | None, str | None] | None:
    """Return (id, left token, right token) of the first id whose tokens differ; None if there is none."""
    first, second = ({number: token for token, number in tokenizer.vocabulary.items()} for tokenizer in (left, right))
    numbers = sorted(number for number in first.keys() | second.keys() if first.get(number) != second.get(number))
    return (numbers[0], first.get(numbers[0]), second.get(numbers[0])) if numbers else None


def _token_id(folder: Path, vocabulary: dict[str, int], field: str, names: tuple[str, ...]) -> int | None:
    """Return the id of the token in a field of tokenizer_config.json, else of the first existing one of `names`."""
    token = json_object(folder / CONFIG).get(field)
    token = token.get("content") if isinstance(token, dict) else token
    ids = (vocabulary.get(name) for name in (token, *names) if name is not None)
    return next((at for at in ids if at is not None), None)
