"""Freezing: some parameters keep their base values exactly."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from fft.core.bounds import CountOrZero
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.settings import TELLS_DEFAULT
from fft.core.tree import Rules, depth_of
from fft.methods.base import Method
from fft.methods.parts import Parts


@dataclass(frozen=True)
class Freeze(Method):
    """Freeze the embeddings and the lowest blocks, or whatever a pattern matches.

    Layer numbers are parsed, never matched as text: block 1 is not block 10. Freezing block 0 and leaving the
    embeddings free would let the layer under the frozen one move, so `blocks` always takes the embeddings along.
    """

    name: ClassVar[str] = "freeze"
    blocks: Annotated[CountOrZero | None, TELLS_DEFAULT] = None
    """freeze the embeddings and this many blocks from below (default: half of them)"""
    pattern: str | None = None
    """freeze the parameters whose whole path matches this regular expression, instead of by depth"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks is not None and self.pattern is not None:
            raise InputError("--freeze.blocks and --freeze.pattern say two things; give one")

    def parts(self) -> Parts:
        return Parts(rules=self._rules)

    def _rules(self, paths: Iterable[str], depth: int) -> Rules:
        if self.pattern is not None:
            return ((self.pattern, 0.0),)
        blocks = depth // 2 if self.blocks is None else self.blocks
        if blocks > depth:
            raise InputError(f"--freeze.blocks {blocks}: the model has {counted(depth, 'block')}")
        low = sorted({p.split("/")[0] for p in paths if depth_of(p, depth) == 0})
        ids = sorted({int(p.split("/")[1]) for p in paths if 1 <= depth_of(p, depth) <= blocks})
        patterns = [f"{name}/.*" for name in low] + [f"layers/{i}/.*" for i in ids]
        return tuple((pattern, 0.0) for pattern in patterns)
