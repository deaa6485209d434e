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
from fft.data.sequences import Tokens, encoded
from fft.data.tokenize import EncodeOptions, Tokenizer, refuse_length, refuse_unknown
from fft.tasks import Task

if TYPE_CHECKING:
    from fft.models.model import Checkpoint


class NextToken(LanguageKind):
    """Reads rows as sequences of tokens, some of which are supervised: predicted from the tokens before them."""

    @abstractmethod
    def sequences(
        self, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions
    ) -> tuple[list[Sequence[Tokens]], list[str]]:
        """Return the sequences of every row, not longer than the limit, and notes.

        A row of which nothing is supervised, or nothing that is left, has none.
        """

    def encode(self, task: Task, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions) -> EncodedRows:
        refuse_length(tokenizer, options)
        examples, notes = self.sequences(rows, tokenizer, options)
        chosen = [at for at, example in enumerate(examples) if sum(tokens.targets for tokens in example)]
        if not chosen:
            raise InputError(
                f"{rows.source}: no {self.unit} has a token to predict within {options.max_length} tokens: give longer "
                "texts, or a larger --max-length"
            )
        if left_out := len(examples) - len(chosen):
            are = agreeing(left_out, "is", "are")
            notes.append(
                f"{counted(left_out, self.unit)} {are} left out, because no token to predict is left within "
                f"{options.max_length} tokens"
            )
        rows, examples = rows.take(chosen), [[t for t in examples[at] if t.targets] for at in chosen]
        for number, example in zip(rows.numbers, examples, strict=True):
            for tokens in example:
                refuse_unknown(f"{rows.source}, row {number}", tokens.ids, tokenizer, options.vocab_size)
        labels = self.denominators(task, rows, examples, tokenizer)
        result = encoded(examples, labels, rows.numbers)
        return EncodedRows(result, rows, notes)

    def denominators(
        self, task: Task, rows: Rows, examples: Sequence[Sequence[Tokens]], tokenizer: Tokenizer
    ) -> np.ndarray:
        """Return what the sums of every row are divided by, int64 [E]: its supervised tokens, or their bytes."""
        if task.metric != "bits_per_byte":
            return np.array([sum(tokens.targets for tokens in example) for example in examples], np.int64)
        supervised = [[tokens.ids[1:][tokens.supervised[1:]] for tokens in example] for example in examples]
        texts = [tokenizer.backend.decode(np.concatenate(ids).tolist()) for ids in supervised]
        return np.array([len(text.encode()) for text in texts], np.int64)

    def reading_notes(self, across: int, long: int, options: EncodeOptions) -> list[str]:
        """Return notes on the numbers of rows with a token across the border of prompt and answer, and of long ones."""
        notes = []
        if across:
            notes.append(
                f"{counted(across, self.unit)} would have a token across the border of prompt and answer if both were "
                "read as one text; they are read apart, as in generation"
            )
        if long:
            done = "split into pieces" if options.cut == "split" else f"cut at the {options.cut}"
            notes.append(f"{counted(long, self.unit)} longer than {options.max_length} tokens, {done}")
        return notes

    def misfit(self, checkpoint: "Checkpoint") -> str | None:
        if checkpoint.model.extend is not None:
            return None
        return (
            f"a {checkpoint.model.family} model predicts masked tokens, not the next one: give the kind mlm "
            "(--new.kind, --original.kind, --task.kind), or a decoder"
        )
