"""Completion: a prompt, and the text that is to follow it."""

from collections.abc import Sequence

import numpy as np

from fft.data.kinds.next_token import NextToken
from fft.data.rows import Columns, Rows
from fft.data.sequences import Tokens
from fft.data.tokenize import EncodeOptions, Tokenizer, encode_plain, end_id

PROMPT, COMPLETION = "prompt", "completion"


class Completion(NextToken):
    """Reads prompts with completions, of which by default only the completions are supervised."""

    unit = "row"
    prompts = True

    def columns(self, named: Columns, existing: Sequence[str]) -> Columns:
        return Columns(PROMPT, COMPLETION, None, fixed=True)

    def sequences(
        self, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions
    ) -> tuple[list[Sequence[Tokens]], list[str]]:
        """Return the sequence of each row: the ids of the prompt as generation sees them, those of the completion, and
        the token that ends a text.
        """
        sequences, across = prompted(tokenizer, rows, options)
        return [[tokens] for tokens in sequences], self.border_notes(across)


def prompted(tokenizer: Tokenizer, rows: Rows, options: EncodeOptions) -> tuple[list[Tokens], int]:
    """Return every prompt with the text behind it as tokens, and the number of rows in which both together would be
    other tokens. A sequence is the ids of the prompt as generation sees them, those of the text, and the end token.
    """
    assert rows.pairs is not None  # the columns of both are named
    prompts = encode_plain(tokenizer, rows.texts, rows.source, special=True)
    completions = encode_plain(tokenizer, rows.pairs, rows.source, special=False)
    joint = [prompt + completion for prompt, completion in zip(rows.texts, rows.pairs, strict=True)]
    together = encode_plain(tokenizer, joint, rows.source, special=True)
    end = end_id(tokenizer)
    ending = np.array([] if end is None else [end], np.int32)
    sequences, across = [], 0
    for prompt, completion, joined in zip(prompts, completions, together, strict=True):
        is_joined = np.array_equal(joined[: len(prompt)], prompt)
        across += not is_joined
        text = joined if is_joined else np.concatenate([prompt, completion])
        ids = text if np.array_equal(text[-1:], ending) else np.concatenate([text, ending])
        supervised = np.arange(len(ids)) >= (1 if options.supervise == "all" else max(1, len(prompt)))
        sequences.append(Tokens(ids, supervised))
    return sequences, across
