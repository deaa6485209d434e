"""Masked tokens, as masked language models are trained: 15 % of a text, of which 80 % read the mask token.

Reference: Devlin et al. 2019, arXiv 1810.04805, section 3.1; new places in every epoch as in Liu et al. 2019,
arXiv 1907.11692, section 4.1.
"""

from typing import NamedTuple

import numpy as np

from fft.core.batch import NO_TARGET
from fft.core.brief import brief

SHARE, MASKED, RANDOM = 0.15, 0.8, 0.1
"""the share of tokens that are predicted; of these, the shares that read as the mask token and as a random one"""


class Masking(NamedTuple):
    """The whole texts of rows, and how some of their tokens are hidden: mask id, special ids, and the other ids."""

    texts: list[np.ndarray]
    """int32 [T_i] each, with special tokens"""
    mask_id: int
    special: np.ndarray
    """ids that are never hidden"""
    words: np.ndarray
    """ids of which random replacements are drawn"""
    __repr__ = brief

    def take(self, picked: np.ndarray) -> "Masking":
        """Return that of the rows at positions `picked`."""
        return self._replace(texts=[self.texts[at] for at in picked])

    def draw(self, row: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids, targets) of a row, int32 [T] each: SHARE of its tokens have themselves as the target, at least
        one, and of these MASKED read as the mask token, RANDOM as another one, and the others as themselves.
        """
        text = self.texts[row]
        ids, targets = text.copy(), np.full(len(text), NO_TARGET, np.int32)
        able = np.flatnonzero(~np.isin(text, self.special))
        chosen = rng.permutation(able)[: max(1, round(SHARE * len(able)))]
        targets[chosen] = text[chosen]
        luck = rng.random(len(chosen))
        ids[chosen[luck < MASKED]] = self.mask_id
        other = chosen[(luck >= MASKED) & (luck < MASKED + RANDOM)]
        ids[other] = rng.choice(self.words, len(other))
        return ids, targets
