"""Norm tuning: train only the layer norms."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fft.core.tree import Rules
from fft.methods.base import Method
from fft.methods.parts import Parts
from fft.methods.trees import BASE_TREE, trained_alone


@dataclass(frozen=True)
class NormTuning(Method):
    """Train the scale and bias of every layer norm, and the heads; freeze everything else.

    Reference: Qi et al. 2022, arXiv 2211.08682, section 3.
    """

    name: ClassVar[str] = "norm"

    def parts(self) -> Parts:
        return Parts(tree=BASE_TREE, rules=self._rules, lr=5e-4)

    def _rules(self, paths: Iterable[str], depth: int) -> Rules:
        paths = list(paths)
        norms = [path.removesuffix("/scale") for path in paths if path.endswith("/scale")]
        return trained_alone(self.name, "|".join(f"{re.escape(norm)}/(scale|bias)" for norm in norms), paths)
