"""The part of the Kind interface that is the same for all rows of which the next token is predicted."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import agreeing, counted
from fft.data.kinds.kind import EncodedRows
from fft.data.kinds.language import LanguageKind
from fft.data.rows import Rows
from fft.data.sequences import Tokens, encoded, fitted
from fft.data.tokenize import EncodeOptions, Tokenizer, language_notes, refuse_length, refuse_unknown
from fft.tasks import Task

if TYPE_CHECKING:
    from fft.models.model import Checkpoint


class NextToken(LanguageKind):
    """Reads rows as sequences of tokens, some of which are supervised: predicted from the tokens before them."""

    @abstractmethod
    def sequences(
        self, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions
    ) -> tuple[list[Sequence[Tokens]], list[str]]:
        """Return the sequences of every row, uncut, and notes; a row of which nothing is supervised may have none."""

    def limited(self, tokens: Tokens, options: EncodeOptions) -> list[Tokens]:
        """Return a sequence in at most `options.max_length` inputs: cut, in several parts, or nothing of it."""
        return fitted(tokens, options.max_length, options.cut)

    def length_note(self, rows: Rows, long: int, pieces: int, options: EncodeOptions) -> str:
        """Return a note on the `long` rows that exceed the limit, of which so many pieces are left."""
        done = f"split into {counted(pieces, 'piece')}" if options.cut == "split" else f"cut at the {options.cut}"
        return f"{counted(long, self.unit_of(rows))} longer than {options.max_length:,} tokens, {done}"

    def encode(self, task: Task, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions) -> EncodedRows:
        refuse_length(tokenizer, options)
        sequences, notes = self.sequences(rows, tokenizer, options)
        examples = [[part for tokens in row for part in self.limited(tokens, options)] for row in sequences]
        lengths = [max((len(tokens.ids) - 1 for tokens in row), default=0) for row in sequences]
        long = np.flatnonzero(np.array(lengths) > options.max_length)
        if len(long):
            notes.append(self.length_note(rows, len(long), sum(len(examples[at]) for at in long), options))
        chosen = [at for at, example in enumerate(examples) if sum(tokens.targets for tokens in example)]
        if not chosen:
            raise InputError(
                f"{rows.source}: no {self.unit_of(rows)} has a token to predict within {options.max_length:,} "
                "tokens: give longer texts, or a larger --max-length"
            )
        if left_out := len(examples) - len(chosen):
            are = agreeing(left_out, "is", "are")
            notes.append(
                f"{counted(left_out, self.unit_of(rows))} {are} left out, because no token to predict is left within "
                f"{options.max_length:,} tokens"
            )
        rows, examples = rows.take(chosen), [[t for t in examples[at] if t.targets] for at in chosen]
        for number, example in zip(rows.numbers, examples, strict=True):
            for tokens in example:
                refuse_unknown(f"{rows.source}, row {number}", tokens.ids, tokenizer, options.vocab_size)
        ids = (tokens.ids for example in examples for tokens in example)
        notes += language_notes(tokenizer, rows, ids, self.unit_of(rows))
        labels = self.denominators(task, rows, examples, tokenizer)
        return EncodedRows(encoded(examples, labels, rows.numbers), rows, notes, len(long))

    def denominators(
        self, task: Task, rows: Rows, examples: Sequence[Sequence[Tokens]], tokenizer: Tokenizer
    ) -> np.ndarray:
        """Return what the sums of every row are divided by, int64 [E]: its supervised tokens, or their bytes."""
        if task.metric != "bits_per_byte":
            return np.array([sum(tokens.targets for tokens in example) for example in examples], np.int64)
        supervised = [[tokens.ids[1:][tokens.supervised[1:]] for tokens in example] for example in examples]
        texts = [tokenizer.backend.decode(np.concatenate(ids).tolist()) for ids in supervised]
        return np.array([len(text.encode()) for text in texts], np.int64)

    def border_notes(self, across: int) -> list[str]:
        """Return a note on the number of rows with a token across the border of prompt and answer; [] for none."""
        if not across:
            return []
        return [
            f"{counted(across, self.unit)} would have a token across the border of prompt and answer if both were "
            "read as one text; they are read apart, as in generation"
        ]

    def misfit(self, checkpoint: "Checkpoint") -> str | None:
        if checkpoint.model.extend is not None:
            return None
        return (
            f"a {checkpoint.model.family} model predicts masked tokens, not the next one: give the kind mlm "
            "(--new.kind, --original.kind, --task.kind), or a decoder"
        )
