"""Rank-stabilised LoRA: LoRA with a scale of α/√R."""

import math
from dataclasses import dataclass
from typing import ClassVar

from fft.methods.lora import LoRA


@dataclass(frozen=True)
class RsLoRA(LoRA):
    """W' = W + (α/√R) A·B: LoRA with a scale for which the size of activations and gradients does not depend on R.

    With α/R they shrink as 1/√R, so that at the same learning rate a high rank learns no more than a low one.

    Reference: Kalajdzievski 2023, arXiv 2312.03732, theorem 3.2.
    """

    name: ClassVar[str] = "rslora"

    @staticmethod
    def scaled(alpha: float, rank: int) -> float:
        """Return the scale s = α/√R of an update."""
        return alpha / math.sqrt(rank)
