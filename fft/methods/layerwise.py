"""Layer-wise learning rates: the lowest layers, whose features are the most general, change least."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fft.core.bounds import Share
from fft.core.tree import Rules, depth_of
from fft.methods.base import Method
from fft.methods.parts import Parts


@dataclass(frozen=True)
class Layerwise(Method):
    """Multiply the learning rate of a parameter by decay^(top - depth).

    Depth 0 is the embeddings, i + 1 is block i, and the top (blocks + 1) is everything above the blocks: pooler,
    final norm, heads. With 6 blocks and decay 0.9 the rate of the embeddings is multiplied by 0.9^7 = 0.48.

    Reference: Howard and Ruder 2018 (ULMFiT), arXiv 1801.06146, section 3.2; indexed as in BEiT, arXiv 2106.08254.
    """

    name: ClassVar[str] = "layerwise"
    decay: Share = 0.9
    """the factor from one depth to the next lower one"""

    def parts(self) -> Parts:
        return Parts(rules=self._rules)

    def _rules(self, paths: Iterable[str], depth: int) -> Rules:
        roots = {}
        for path in paths:
            first, second = path.split("/")[:2]
            root = f"{first}/{second}" if first == "layers" else first
            roots[root] = self.decay ** (depth + 1 - depth_of(path, depth))
        return tuple((f"{root}/.*", multiplier) for root, multiplier in sorted(roots.items()))
