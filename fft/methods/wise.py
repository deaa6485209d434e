"""WiSE-FT: interpolate between the trained parameters and the base."""

from dataclasses import dataclass
from typing import ClassVar

from fft.core.bounds import Share
from fft.merging.formulas import interpolate
from fft.methods.base import Method
from fft.methods.parts import Parts


@dataclass(frozen=True)
class Wise(Method):
    """Score and save  θ* + α (θ − θ*)  of the trained θ and the base θ*. A fresh head has no original value; it is θ.

    Training does not change, but every score is that of the interpolated parameters, and so is the best step.

    Reference: Wortsman et al. 2021, arXiv 2109.01903, equation 1.
    """

    name: ClassVar[str] = "wise"
    alpha: Share = 0.5
    """α: 0 is the base, 1 what was trained"""

    def parts(self) -> Parts:
        return Parts(finish=lambda base, params: interpolate(base, params, self.alpha))
