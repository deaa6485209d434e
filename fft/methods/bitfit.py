"""BitFit: train only biases."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fft.core.tree import Rules
from fft.methods.base import Method
from fft.methods.parts import Parts
from fft.methods.trees import trained_alone


@dataclass(frozen=True)
class BitFit(Method):
    """Train every bias, including those of the norms and of BERT's pooler, and the heads; freeze everything else.

    Reference: Ben Zaken, Goldberg and Ravfogel 2021, arXiv 2106.10199, section 3.
    """

    name: ClassVar[str] = "bitfit"

    def parts(self) -> Parts:
        return Parts(rules=self._rules, lr=5e-4)

    def _rules(self, paths: Iterable[str], depth: int) -> Rules:
        return trained_alone(self.name, ".*/bias", paths)
