"""WiSE-FT: after training, go back a part of the way to the base."""

from dataclasses import dataclass
from typing import ClassVar

from fft.core.bounds import Share
from fft.merging.formulas import interpolate
from fft.methods.base import Method
from fft.methods.parts import Parts


@dataclass(frozen=True)
class Wise(Method):
    """Keep  θ* + α (θ − θ*)  of the trained θ and the base θ*. A fresh head has no original value and is kept whole.

    Training is not changed, but every scoring is of the interpolated parameters, and the best step is theirs.

    Reference: Wortsman et al. 2021, arXiv 2109.01903, equation 1.
    """

    name: ClassVar[str] = "wise"
    alpha: Share = 0.5
    """α: 0 is the base, 1 what was trained"""

    def parts(self) -> Parts:
        return Parts(finish=lambda base, params: interpolate(base, params, self.alpha))
