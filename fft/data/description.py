"""Describes a source for `fft data`: rows, labels, lengths and problems."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fft.core.naming import counted
from fft.data.kinds import KINDS, Kind
from fft.data.missing import missing_labels, missing_texts
from fft.data.prompts import templated
from fft.data.rows import Rows
from fft.data.settings import Data, column_notes, columns_of, kind_of
from fft.data.splits import make_splits, text_keys
from fft.data.tokenize import EncodeOptions, load_tokenizer, text_notes, token_ids

if TYPE_CHECKING:
    from fft.models.layers import Config

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


def describe(
    data: Data, folder: Path | str | None = None, max_length: int | None = None, config: "Config | None" = None
) -> dict:
    """Return what training on `data` would encounter, as JSON data.

    {'source', 'kind', 'length_unit': 'tokens' | 'words', 'max_length', 'splits': {role: {'rows', 'labels': {name:
    count} or 'targets': {quantile: value}, 'lengths': {quantile: length}, 'cut', 'duplicates'}}, 'troubles': [str]}.
    With the `folder` of a Hugging Face tokenizer, lengths are in tokens and 'cut' counts the texts longer than
    max_length; without one, lengths are in words and 'cut' is None. A language task of a model with a `config` has the
    numbers of 'tokens' and of those that are 'supervised' in place of labels, and 'shown', its first row with the
    supervised tokens marked.

    Raises: InputError if the source cannot be read.
    """
    stated = kind_of(data)
    tokenizer, kind = None if folder is None else load_tokenizer(folder), KINDS[stated]
    max_length = kind.length if max_length is None else max_length
    if kind.predicts == "language" and config is not None and folder is not None:
        return _of_language(data, stated, folder, min(max_length, config.max_positions), config)
    parts = make_splits(data.source, columns_of(data), data.validation, data.test)
    tokens = {role: token_ids(tokenizer, rows) for role, rows in parts.rows.items()} if tokenizer else {}
    splits = {role: _split(rows, kind, tokens.get(role), max_length) for role, rows in parts.rows.items()}
    troubles = [*(tokenizer.notes if tokenizer else ()), *parts.warnings]
    for role, rows in parts.rows.items():
        troubles += [f"{role}: {problem}" for problem in (*missing_labels(rows), *missing_texts(rows))]
        if problem := kind.refusal(rows):
            troubles.append(f"{role}: {problem}")
        if clashes := _clashes(rows, kind):
            troubles.append(f"{role}: {counted(clashes, 'text has', 'texts have')} different labels in different rows")
        if tokenizer:
            troubles += [f"{role}: {note}" for note in text_notes(tokenizer, tokens[role], rows.pairs is not None)]
        if cut := splits[role]["cut"]:
            longer = counted(cut, "text is", "texts are")
            troubles.append(f"{role}: {longer} longer than {max_length} tokens and would be cut")
    unit = "words" if tokenizer is None else "tokens"
    return {
        "source": data.source,
        "kind": stated,
        "length_unit": unit,
        "max_length": max_length,
        "splits": splits,
        "troubles": troubles,
    }


def _of_language(data: Data, stated: str, folder: Path | str, max_length: int, config: "Config") -> dict:
    """Return the description of a language task, in the tokens that training would read."""
    kind = KINDS[stated]
    tokenizer = templated(load_tokenizer(folder, config.vocab_size), data.chat_template)
    parts = make_splits(data.source, columns_of(data), data.validation, data.test)
    options = EncodeOptions(max_length, config.vocab_size, config.max_positions, supervise=data.loss, cut=data.cut)
    splits, troubles, shown = {}, [*tokenizer.notes, *column_notes(data), *parts.warnings], []
    for role, rows in parts.rows.items():
        result = kind.encode(kind.task("", None, kind.metric, rows), rows, tokenizer, options)
        lengths, targets = result.encoded.lengths(), result.encoded.example_targets()
        splits[role] = {
            "rows": len(rows.texts),
            "labels": {"tokens": int(lengths.sum()), "supervised": int(targets.sum())},
            "lengths": {str(q): int(np.quantile(lengths, q, method="higher")) for q in QUANTILES},
            "cut": result.long,
            "duplicates": len(rows.texts) - len(set(text_keys(rows))),
        }
        troubles += [f"{role}: {note}" for note in result.notes]
        shown = shown or kind.shown(tokenizer, result)
    return {
        "source": data.source,
        "kind": stated,
        "length_unit": "tokens",
        "max_length": max_length,
        "splits": splits,
        "troubles": troubles,
        "shown": shown,
    }


def _split(rows: Rows, kind: Kind, tokens: list[np.ndarray] | None, max_length: int) -> dict:
    if tokens is None:
        pairs = rows.pairs if rows.pairs is not None else [""] * len(rows.texts)
        lengths = np.array([len(f"{text} {pair}".split()) for text, pair in zip(rows.texts, pairs, strict=True)])
    else:
        lengths = np.array([len(ids) for ids in tokens])
    return {
        "rows": len(rows.texts),
        **kind.summary(rows),
        "lengths": {str(q): int(np.quantile(lengths, q, method="higher")) for q in QUANTILES},
        "cut": None if tokens is None else int((lengths > max_length).sum()),
        "duplicates": len(rows.texts) - len(set(text_keys(rows))),
    }


def _clashes(rows: Rows, kind: Kind) -> int:
    """Count the distinct texts that occur with more than one label."""
    labels: dict[bytes, set] = {}
    for key, label in zip(text_keys(rows), kind.values(rows), strict=True):
        labels.setdefault(key, set()).add(label)
    return sum(len(values) > 1 for values in labels.values())
