"""Prompt tuning: train virtual tokens in front of every text; the model is frozen."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from fft.core.bounds import Count
from fft.core.tree import Params, overlay, unflatten
from fft.methods.base import Method
from fft.methods.parts import Parts
from fft.methods.trees import Tree, copied_heads


@dataclass(frozen=True)
class PromptTuning(Method):
    """Put P virtual tokens, trained embeddings [P, D], before the words of every text; heads are trained fully.

    They start as the embeddings of words drawn from the vocabulary (Gemma's without their scale, which its words alone
    have). No kernel changes, but the input of the heads does,
    even before the first step: so step 0 of a run is scored and saved as the base without virtual tokens.

    Reference: Lester et al. 2021, arXiv 2104.08691, section 2.
    """

    name: ClassVar[str] = "prompt"
    tokens: Count = 20
    """P; they use up positions of the model, which limits the length of texts"""

    def parts(self) -> Parts:
        return Parts(tree=Tree(self._init, overlay, plain=False), lr=1e-3)

    def _init(self, base: Params, key: jax.Array) -> Params:
        table = base["embed"]["word"]["embedding"]
        words = jax.random.randint(key, (self.tokens,), 0, table.shape[0])
        return unflatten(copied_heads(base) | {"prompt/tokens": table[words]})
