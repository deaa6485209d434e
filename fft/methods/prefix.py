"""Prefix tuning: train keys and values in front of those of the text in every block; the model is frozen."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from fft.core.bounds import Count
from fft.core.tree import Params, overlay, unflatten
from fft.methods.base import Method
from fft.methods.parts import Parts
from fft.methods.trees import Tree, copied_heads

SPREAD = 0.02  # the standard deviation of BERT's own initialisation


@dataclass(frozen=True)
class PrefixTuning(Method):
    """Let every block attend to P trained keys and values [P, blocks, 2, K] besides those of the text; train the heads.

    K is the width of a block's keys: D, or less where several queries share a key. Rotations do not turn the prefixes.

    The prefixes are trained directly, without the network that the reference uses to ease their training. No kernel
    changes, but the input of the heads does, even before the first step: so step 0 of a run is scored and saved as the
    base without prefixes.

    Reference: Li and Liang 2021, arXiv 2101.00190, section 4.2.
    """

    name: ClassVar[str] = "prefix"
    tokens: Count = 20
    """P; they use up positions of the model, which limits the length of texts"""

    def parts(self) -> Parts:
        return Parts(tree=Tree(self._init, overlay, plain=False), lr=1e-2)

    def _init(self, base: Params, key: jax.Array) -> Params:
        width = base["layers"]["0"]["attention"]["key"]["kernel"].shape[1]
        shape = (self.tokens, len(base["layers"]), 2, width)
        return unflatten(copied_heads(base) | {"prompt/prefix": SPREAD * jax.random.normal(key, shape)})
