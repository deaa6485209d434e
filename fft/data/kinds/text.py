"""Text: documents of which every token is predicted from those before it."""

from collections.abc import Sequence

import numpy as np

from fft.core.naming import counted
from fft.data.kinds.next_token import NextToken
from fft.data.rows import Columns, Rows
from fft.data.sequences import Tokens, whole, windows
from fft.data.tokenize import EncodeOptions, Tokenizer, encode_plain, end_id


class Text(NextToken):
    """Reads documents. One longer than the limit is cut into windows, in which every token is supervised once."""

    unit = "document"

    def columns(self, named: Columns, existing: Sequence[str]) -> Columns:
        return Columns(named.text, None, None, documents=True)

    def sequences(
        self, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions
    ) -> tuple[list[Sequence[Tokens]], list[str]]:
        """Return every document; one that is complete ends in the token that ends a text."""
        end = end_id(tokenizer) if rows.complete else None
        examples: list[Sequence[Tokens]] = []
        for ids in encode_plain(tokenizer, rows.texts, rows.source, special=True):
            ended = ids if end is None or (len(ids) and ids[-1] == end) else np.append(ids, np.int32(end))
            examples.append([whole(ended)])
        return examples, []

    def limited(self, tokens: Tokens, options: EncodeOptions) -> list[Tokens]:
        return windows(tokens, options.max_length)

    def length_note(self, rows: Rows, long: int, pieces: int, options: EncodeOptions) -> str:
        return self.divided(rows, long, counted(pieces, "window"), options)
