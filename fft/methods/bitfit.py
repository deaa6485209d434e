"""BitFit: only biases are trained."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fft.core.tree import Rules
from fft.methods.base import Method, trained_alone


@dataclass(frozen=True)
class BitFit(Method):
    """Train every bias, those of the norms and of BERT's pooler included, and the heads; freeze everything else.

    Reference: Ben Zaken, Goldberg and Ravfogel 2021, arXiv 2106.10199, section 3.
    """

    name: ClassVar[str] = "bitfit"
    default_lr: ClassVar[float] = 5e-4

    def rules(self, paths: Iterable[str], depth: int) -> Rules:
        return trained_alone(self.name, ".*/bias", paths)
