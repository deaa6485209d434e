"""Rank-stabilised LoRA: LoRA whose scale falls with the root of the rank."""

import math
from dataclasses import dataclass
from typing import ClassVar

from fft.methods.lora import LoRA


@dataclass(frozen=True)
class RsLoRA(LoRA):
    """W' = W + (α/√R) A·B: LoRA with a scale under which activations and gradients keep their size as R grows.

    With α/R they shrink as 1/√R, so that a high rank learns no more than a low one at the same rate.

    Reference: Kalajdzievski 2023, arXiv 2312.03732, theorem 3.2.
    """

    name: ClassVar[str] = "rslora"

    @property
    def scale(self) -> float:
        """s = α/√R."""
        return self.alpha / math.sqrt(self.rank)
