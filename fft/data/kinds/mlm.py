"""Masked language modelling: texts, some tokens of which are hidden and predicted from all the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.data.encoded import Encoded
from fft.data.kinds.kind import EncodedRows
from fft.data.kinds.language import LanguageKind
from fft.data.masking import Masking
from fft.data.rows import Columns, Rows
from fft.data.splits import text_keys
from fft.data.tokenize import (
    EncodeOptions,
    Tokenizer,
    encode_plain,
    mask_id,
    refuse_length,
    refuse_unknown,
    special_ids,
)
from fft.tasks import Task

if TYPE_CHECKING:
    from fft.models.model import Checkpoint


class MaskedLanguage(LanguageKind):
    """Reads documents for an encoder with a masked language head. One longer than the limit is cut into pieces, each
    with the tokens that begin and end a text. Rows that are only scored have the same hidden tokens every time.
    """

    masked = True
    unit = "document"

    def columns(self, named: Columns, existing: Sequence[str]) -> Columns:
        return Columns(named.text, None, None, documents=True)

    def encode(self, task: Task, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions) -> EncodedRows:
        refuse_length(tokenizer, options)
        before, after = _borders(tokenizer)
        size = options.max_length - len(before) - len(after)
        texts, example, seeds = [], [], []
        keys = text_keys(rows)
        for at, ids in enumerate(encode_plain(tokenizer, rows.texts, rows.source, special=False)):
            refuse_unknown(f"{rows.source}, row {rows.numbers[at]}", ids, tokenizer, options.vocab_size)
            pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
            texts += [np.concatenate([before, piece, after]) for piece in pieces]
            example += [at] * len(pieces)
            seeds += [[*keys[at], number] for number in range(len(pieces))]
        special = np.array(sorted(special_ids(tokenizer)), np.int32)
        words = np.setdiff1d(np.fromiter(tokenizer.vocabulary.values(), np.int32), special)
        masking = Masking(texts, mask_id(tokenizer), special, words)
        drawn = [masking.draw(row, np.random.default_rng(seed)) for row, seed in enumerate(seeds)]
        ids, targets = [row for row, _ in drawn], [row for _, row in drawn]
        parts = None if len(texts) == len(rows.texts) else np.array(example)
        result = Encoded(
            ids,
            [np.zeros_like(row) for row in ids],
            np.zeros(len(rows.texts), np.int64),
            np.array(rows.numbers, np.int64),
            None,
            targets,
            parts,
            masking,
        )
        result = result._replace(labels=result.example_targets())
        pieces = np.bincount(example)
        cut = pieces[pieces > 1]
        notes = [self.divided(rows, len(cut), counted(int(cut.sum()), "piece"), options)] if len(cut) else []
        return EncodedRows(result, rows, notes, len(cut))

    def task(self, name: str, labels: tuple[str, ...] | None, metric: str, rows: Rows) -> Task:
        if metric == "bits_per_byte":
            raise InputError("bits_per_byte counts every byte of a text, and of a masked one only some: give nats")
        return super().task(name, labels, metric, rows)

    def misfit(self, checkpoint: "Checkpoint") -> str | None:
        if checkpoint.model.extend is None:
            return None
        return (
            f"a {checkpoint.model.family} model predicts the next token, not masked ones: give the kind text, or an "
            "encoder with its masked language head"
        )


def _borders(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that begin and those that end a text."""
    alone, (probe,) = (
        encode_plain(tokenizer, [""], "", special=True)[0],
        encode_plain(tokenizer, ["a"], "", special=True),
    )
    first = next((at for at, (one, two) in enumerate(zip(alone, probe, strict=False)) if one != two), len(alone))
    return alone[:first], alone[first:]
