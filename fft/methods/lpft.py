"""LP-FT: linear probing, then fine-tuning: train the heads first, then everything."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp

from fft.core.bounds import Share
from fft.core.errors import InputError
from fft.core.naming import UNEMBED
from fft.core.tree import Params
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.parts import Parts, StepContext
from fft.methods.unfreeze import gated

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class LPFT(Method):
    """Train only the heads for the first  ⌈share · steps⌉  steps, then the other trained parameters as well. Until then
    these do not change by a bit.

    The gradients of a random head distort the features; those of a fitted head add what the task needs.

    Reference: Kumar et al. 2022, arXiv 2202.10054.
    """

    name: ClassVar[str] = "lpft"
    share: Share = 0.3
    """share of the run's steps that train only the heads"""

    def parts(self) -> Parts:
        return Parts(check=_require_fresh_head, prepare=self._prepare, confine=_gated)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return {"until": the number of steps that train only the heads, int32 []}."""
        return {"until": jnp.int32(math.ceil(self.share * context.steps))}


def _require_fresh_head(context: Context) -> None:
    """Reject a task without a head of its own. Raises: InputError."""
    if context.new is not None and UNEMBED in context.new.heads:
        raise InputError("lpft trains a new head first, and a task that predicts tokens has none: leave lpft out")


def _gated(tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
    return gated(tx, lambda path: 0 if path.startswith("heads/") else now.aux["until"])
