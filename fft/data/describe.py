"""What is in a source: rows, labels, lengths and troubles, as `fft data` shows them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.data.labels import class_texts, encode_targets, label_names
from fft.data.missing import among_numbers, missing_labels, missing_texts, present
from fft.data.rows import Columns, Rows
from fft.data.splits import make_splits, text_keys
from fft.data.tokenize import load_tokenizer, text_notes, token_ids
from fft.stats.metrics import METRICS

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


def describe(data: Any, folder: Path | str | None = None, max_length: int = 128) -> dict:
    """What training on `data` (fft.experiment.Data) would meet, as plain JSON data.

    {'source', 'length_unit': 'tokens' | 'words', 'max_length', 'splits': {role: {'rows', 'labels': {name: count} or
    'targets': {quantile: value}, 'lengths': {quantile: length}, 'cut', 'duplicates'}}, 'troubles': [str]}.
    With the `folder` of a Hugging Face tokenizer lengths are in tokens and 'cut' counts the texts longer than
    max_length; without one they are in words and 'cut' is None. Raises InputError where the source cannot be read.
    """
    tokenizer = None if folder is None else load_tokenizer(folder)
    found = make_splits(data.source, Columns(data.text, data.pair, data.label), data.validation, data.test)
    tokens = {role: token_ids(tokenizer, rows) for role, rows in found.rows.items()} if tokenizer else {}
    splits = {role: _split(rows, data.kind, tokens.get(role), max_length) for role, rows in found.rows.items()}
    troubles = [*(tokenizer.notes if tokenizer else ()), *found.warnings]
    for role, rows in found.rows.items():
        troubles += [f"{role}: {told}" for told in (*missing_labels(rows), *missing_texts(rows))]
        if told := _refusal(rows, data.kind):
            troubles.append(f"{role}: {told}")
        if clashes := _clashes(rows, data.kind):
            troubles.append(f"{role}: {counted(clashes, 'text stands', 'texts stand')} there with different labels")
        if tokenizer:
            troubles += [f"{role}: {note}" for note in text_notes(tokenizer, tokens[role], rows.pairs is not None)]
        if cut := splits[role]["cut"]:
            longer = counted(cut, "text is", "texts are")
            troubles.append(f"{role}: {longer} longer than {max_length} tokens and would be cut")
    unit = "words" if tokenizer is None else "tokens"
    return {
        "source": data.source,
        "length_unit": unit,
        "max_length": max_length,
        "splits": splits,
        "troubles": troubles,
    }


def _refusal(rows: Rows, kind: str) -> str:
    """Why training would refuse the labels of some rows, or could not score them, missing values aside, which have
    troubles of their own.
    """
    if kind == "regression" or among_numbers(rows):
        rows = present(rows)
    try:
        if rows.labels and kind == "regression":
            return METRICS["pearson"].undefined(encode_targets(rows)) or ""
        if rows.labels:
            label_names(rows)
    except InputError as error:
        return str(error)
    return ""


def _split(rows: Rows, kind: str, tokens: list[np.ndarray] | None, max_length: int) -> dict:
    if tokens is None:
        pairs = rows.pairs if rows.pairs is not None else [""] * len(rows.texts)
        lengths = np.array([len(f"{text} {pair}".split()) for text, pair in zip(rows.texts, pairs, strict=True)])
    else:
        lengths = np.array([len(ids) for ids in tokens])
    if kind == "regression":
        values = {"targets": _targets(rows)}
    else:
        counts = Counter(class_texts(rows))
        values = {"labels": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))}
    return {
        "rows": len(rows.texts),
        **values,
        "lengths": {str(q): int(np.quantile(lengths, q, method="higher")) for q in QUANTILES},
        "cut": None if tokens is None else int((lengths > max_length).sum()),
        "duplicates": len(rows.texts) - len(set(text_keys(rows))),
    }


def _targets(rows: Rows) -> dict:
    """Quantiles of the targets that are there; none when they are not numbers (a trouble says so)."""
    try:
        targets = encode_targets(present(rows))
    except InputError:
        return {}
    return {str(q): float(np.quantile(targets, q)) for q in QUANTILES} if len(targets) else {}


def _clashes(rows: Rows, kind: str) -> int:
    """Different texts that stand there with more than one label."""
    labels: dict[bytes, set] = {}
    values = rows.labels if kind == "regression" else class_texts(rows)
    for key, label in zip(text_keys(rows), values, strict=True):
        labels.setdefault(key, set()).add(label)
    return sum(len(found) > 1 for found in labels.values())
