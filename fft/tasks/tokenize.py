"""Texts to token ids with the tokenizer of a Hugging Face folder, checked against the model's tables on the host.

An id beyond the embedding table does not fail on a device: it reads the last row, or gives NaN.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fft.errors import InputError
from fft.record import parsed
from fft.tasks.rows import Rows

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>", "<mask>")
TYPED_FAMILIES = ("bert",)  # the others have no token types, or one that is always 0


class Tokenizer(NamedTuple):
    """A `tokenizers.Tokenizer` without padding and truncation, and what else the batches need."""

    backend: object
    pad_id: int
    typed: bool
    folder: Path


class Encoded(NamedTuple):
    """N tokenized rows: ids, types int32 [T_i] each, labels int32 or float32 [N], numbers int64 [N] (source rows).

    `task` int32 [N] is which of several tasks a row is of; None where there is one.
    """

    ids: list[np.ndarray]
    types: list[np.ndarray]
    labels: np.ndarray
    numbers: np.ndarray
    task: np.ndarray | None = None

    def lengths(self) -> np.ndarray:
        """Tokens of every row, int64 [N]."""
        return np.array([len(ids) for ids in self.ids], np.int64)

    def take(self, picked: np.ndarray) -> "Encoded":
        """The rows at positions `picked`, in that order."""
        picked = np.asarray(picked, np.int64)
        task = None if self.task is None else self.task[picked]
        ids, types = ([values[i] for i in picked] for values in (self.ids, self.types))
        return Encoded(ids, types, self.labels[picked], self.numbers[picked], task)


def load_tokenizer(folder: Path | str, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, else what transformers builds from the vocabulary files.

    Raises InputError when there is none, when it cannot be read, or when it has ids >= `vocab_size` (V, the rows of the
    embedding table).
    """
    folder = Path(folder)
    backend = _backend(folder)
    backend.no_padding()
    backend.no_truncation()
    token, top = max(backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    if vocab_size is not None and top >= vocab_size:
        raise InputError(
            f"{folder}: the tokenizer is larger than the embedding table: token {token!r} has id {top}, the table has "
            f"{vocab_size} rows. Use the tokenizer this model was trained with, or resize the table first."
        )
    config = _json(folder / "config.json")
    typed = config.get("model_type") in TYPED_FAMILIES and config.get("type_vocab_size", 2) > 1
    return Tokenizer(backend, _pad_id(folder, backend, config), typed, folder)


def encode(
    tokenizer: Tokenizer,
    rows: Rows,
    labels: np.ndarray,
    max_length: int,
    vocab_size: int,
    max_positions: int,
) -> tuple[Encoded, int]:
    """Token ids of every row, cut to `max_length` tokens, the longer text of a pair first; also the count of cut rows.

    Raises InputError when max_length exceeds the model's positions or leaves no room, and for an id >= vocab_size.
    """
    backend = tokenizer.backend
    special = backend.num_special_tokens_to_add(rows.pairs is not None)
    if max_length > max_positions:
        raise InputError(f"max_length {max_length}: the model in {tokenizer.folder} has {max_positions} positions")
    if max_length <= special:
        raise InputError(f"max_length {max_length}: {special} are taken by special tokens; give at least {special + 1}")
    inputs = rows.texts if rows.pairs is None else list(zip(rows.texts, rows.pairs, strict=True))
    backend.enable_truncation(max_length, strategy="longest_first")
    try:
        encodings = backend.encode_batch(inputs)
    finally:
        backend.no_truncation()
    ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
    for row, (number, found) in enumerate(zip(rows.numbers, ids, strict=True)):
        if not len(found):
            raise InputError(f"{rows.source}, row {number}: the text has no tokens: {rows.texts[row]!r}")
        if found.max() >= vocab_size:
            at = int(found.argmax())
            raise InputError(
                f"{rows.source}, row {number}: token {encodings[row].tokens[at]!r} has id {found[at]}, the embedding "
                f"table has {vocab_size} rows"
            )
    types = [np.array(e.type_ids, np.int32) * np.int32(tokenizer.typed) for e in encodings]
    cut = sum(bool(encoding.overflowing) for encoding in encodings)
    return Encoded(ids, types, np.asarray(labels), np.array(rows.numbers, np.int64)), cut


def token_counts(tokenizer: Tokenizer, rows: Rows) -> np.ndarray:
    """Tokens of every row before any cut, special tokens included, int64 [N]."""
    inputs = rows.texts if rows.pairs is None else list(zip(rows.texts, rows.pairs, strict=True))
    return np.array([len(encoding.ids) for encoding in tokenizer.backend.encode_batch(inputs)], np.int64)


def _backend(folder: Path):
    """The `tokenizers.Tokenizer` of a folder."""
    from tokenizers import Tokenizer as Backend

    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise InputError(f"{path}: not a readable tokenizer file: {error}") from None
    if not any((folder / name).is_file() for name in ("vocab.txt", "vocab.json", "tokenizer_config.json")):
        raise InputError(
            f"{folder}: no tokenizer: expected tokenizer.json, or vocab.txt, or vocab.json with merges.txt"
        )
    from transformers import AutoTokenizer

    try:
        built = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return built.backend_tokenizer
    except Exception as error:  # whatever transformers raises for a bad folder
        raise InputError(
            f"{folder}: transformers cannot build a fast tokenizer from it: {error}. Add a tokenizer.json."
        ) from None


def _pad_id(folder: Path, backend, config: dict) -> int:
    """The model's pad_token_id, else the id of the tokenizer's pad token."""
    if isinstance(config.get("pad_token_id"), int):
        return config["pad_token_id"]
    if (found := _token_id(folder, backend, "pad_token", ("[PAD]", "<pad>"))) is not None:
        return found
    raise InputError(
        f"{folder}: no padding token: config.json has no pad_token_id and the tokenizer names no pad_token"
    )


def mask_id(tokenizer: Tokenizer) -> int:
    """The id of the mask token; InputError where the tokenizer has none."""
    found = _token_id(tokenizer.folder, tokenizer.backend, "mask_token", ("[MASK]", "<mask>"))
    if found is None:
        raise InputError(f"{tokenizer.folder}: the tokenizer has no mask token, so nothing can be masked")
    return found


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that stand for no text: padding, mask, unknown, and what begins and ends a row."""
    added = {at for at, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
    named = {tokenizer.backend.token_to_id(name) for name in SPECIAL} - {None}
    return frozenset(added | named | {tokenizer.pad_id, mask_id(tokenizer)})


def first_difference(one: Tokenizer, other: Tokenizer) -> tuple[int, str | None, str | None] | None:
    """(number, the token in one, the token in the other) of the first number that is not one token's in both."""
    first, second = (
        {number: token for token, number in each.backend.get_vocab(with_added_tokens=True).items()}
        for each in (one, other)
    )
    numbers = sorted(number for number in first.keys() | second.keys() if first.get(number) != second.get(number))
    return (numbers[0], first.get(numbers[0]), second.get(numbers[0])) if numbers else None


def _token_id(folder: Path, backend, field: str, names: tuple[str, ...]) -> int | None:
    """The id of the token that tokenizer_config.json names in a field, else of the first of `names` that there is."""
    token = _json(folder / "tokenizer_config.json").get(field)
    token = token.get("content") if isinstance(token, dict) else token
    found = (backend.token_to_id(name) for name in (token, *names) if name is not None)
    return next((at for at in found if at is not None), None)


def _json(path: Path) -> dict:
    """The JSON object in `path`; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
