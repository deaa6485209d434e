"""Prompt tuning: virtual tokens before every text are trained, the model stays."""

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
    """Put P virtual tokens, trained embeddings [P, D], before the words of every text; heads are trained whole beside.

    They begin as the embeddings of words drawn from the vocabulary. No kernel changes, but what the heads read does,
    from the first step on: step 0 of a run is scored and kept as the base without them.

    Reference: Lester et al. 2021, arXiv 2104.08691, section 2.
    """

    name: ClassVar[str] = "prompt"
    tokens: Count = 20
    """P; they take places that are missing for the text, where the model has few positions"""

    def parts(self) -> Parts:
        return Parts(tree=Tree(self._init, overlay, plain=False), lr=1e-3)

    def _init(self, base: Params, key: jax.Array) -> Params:
        table = base["embed"]["word"]["embedding"]
        words = jax.random.randint(key, (self.tokens,), 0, table.shape[0])
        return unflatten(copied_heads(base) | {"prompt/tokens": table[words]})
