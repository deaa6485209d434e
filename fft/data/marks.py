"""A row of a language task as a text in which the supervised tokens are marked."""

import numpy as np

from fft.data.encoded import Encoded
from fft.data.tokenize import Tokenizer

OPEN, CLOSE = "⟦", "⟧"
WIDTH = 600
"""characters that are shown of a row"""


def marked(tokenizer: Tokenizer, encoded: Encoded, at: int = 0) -> str:
    """Return a row with ⟦ ⟧ around every run of supervised tokens; a long one is cut around the first of them."""
    assert encoded.targets is not None  # only the rows of language tasks are shown
    targets = encoded.targets[at]
    if encoded.masking is not None:
        return _marked(tokenizer, encoded.masking.texts[at], targets >= 0)
    ids = np.append(encoded.ids[at], max(0, targets[-1]))[: len(targets) + int(targets[-1] >= 0)]
    return _marked(tokenizer, ids, np.append(False, targets >= 0)[: len(ids)])


def _marked(tokenizer: Tokenizer, ids: np.ndarray, is_target: np.ndarray) -> str:
    edges = np.flatnonzero(np.diff(is_target, prepend=False, append=False))
    text, first = "", 0
    for start, stop in zip([0, *edges], [*edges, len(ids)], strict=True):
        run = tokenizer.backend.decode(ids[start:stop].tolist(), skip_special_tokens=False)
        if stop > start and is_target[start]:
            first = first or len(text)
            run = f"{OPEN}{run}{CLOSE}"
        text += run
    begin = max(0, min(first - WIDTH // 3, len(text) - WIDTH))
    return f"{'…' * (begin > 0)}{text[begin : begin + WIDTH]}{'…' * (begin + WIDTH < len(text))}"
