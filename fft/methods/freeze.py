"""Freezing: some parameters are not trained."""

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

    `blocks` always includes the embeddings, because otherwise a layer below the frozen blocks would still change. Layer
    numbers are compared as numbers: block 1 is not block 10.
    """

    name: ClassVar[str] = "freeze"
    blocks: Annotated[CountOrZero | None, TELLS_DEFAULT] = None
    """freeze the embeddings and this many of the lowest blocks (default: half of them)"""
    pattern: str | None = None
    """freeze the parameters whose full path matches this regular expression, instead of by depth"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks is not None and self.pattern is not None:
            raise InputError("--freeze.blocks and --freeze.pattern exclude each other: give one of them")

    def parts(self) -> Parts:
        return Parts(rules=self._rules)

    def _rules(self, paths: Iterable[str], depth: int) -> Rules:
        if self.pattern is not None:
            return ((self.pattern, 0.0),)
        blocks = depth // 2 if self.blocks is None else self.blocks
        if blocks > depth:
            raise InputError(f"--freeze.blocks {blocks}: the model has {counted(depth, 'block')}; give no more")
        low = sorted({p.split("/")[0] for p in paths if depth_of(p, depth) == 0})
        ids = sorted({int(p.split("/")[1]) for p in paths if 1 <= depth_of(p, depth) <= blocks})
        patterns = [f"{name}/.*" for name in low] + [f"layers/{i}/.*" for i in ids]
        return tuple((pattern, 0.0) for pattern in patterns)
