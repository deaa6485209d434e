"""Prefix tuning: keys and values before those of the text are trained in every block, the model stays."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from fft.core.bounds import Count
from fft.core.tree import Params, overlay, unflatten
from fft.methods.base import Method
from fft.methods.parts import Parts
from fft.methods.trees import Tree, copied_heads

SPREAD = 0.02  # as BERT's own parameters start


@dataclass(frozen=True)
class PrefixTuning(Method):
    """Let every block attend to P trained keys and values besides those of the text: [P, blocks, 2, D]; heads as well.

    They are trained as they are, without the network that the reference trains them through, which only eases the
    training. No kernel changes, but what the heads read does, from the first step on: step 0 of a run is scored and
    kept as the base without them.

    Reference: Li and Liang 2021, arXiv 2101.00190, section 4.2.
    """

    name: ClassVar[str] = "prefix"
    tokens: Count = 20
    """P; they take places that are missing for the text, where the model has few positions"""

    def parts(self) -> Parts:
        return Parts(tree=Tree(self._init, overlay, plain=False), lr=1e-2)

    def _init(self, base: Params, key: jax.Array) -> Params:
        width = base["layers"]["0"]["attention"]["query"]["kernel"].shape[1]
        shape = (self.tokens, len(base["layers"]), 2, width)
        return unflatten(copied_heads(base) | {"prompt/prefix": SPREAD * jax.random.normal(key, shape)})
