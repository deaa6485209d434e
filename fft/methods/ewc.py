"""Elastic weight consolidation: a penalty keeps parameters that the original task depends on near the base."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from fft.core.bounds import NonNegative
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.fisher.storage import Storage, unpack
from fft.methods.context import Context
from fft.methods.informed import Informed, Stored
from fft.methods.parts import Parts, StepContext


@dataclass(frozen=True)
class EWC(Informed, Stored):
    """Add  ½ λ Σ F ⊙ (θ − θ*)²  with the diagonal Fisher information F of the original task at the base θ*.

    The sum runs over the MERGED parameters, so with LoRA it is ½ λ Σ F ⊙ (s·A·B)² and the frozen base is the anchor.
    A fresh head has no original-task loss and is not penalised. The Laplace approximation with mean losses gives λ near
    N_original / N_new, the unit `ratio`; the useful λ is often larger, so search it on a logarithmic grid.

    Reference: Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3.
    """

    name: ClassVar[str] = "ewc"
    strength: NonNegative = 1000.0
    """λ"""
    unit: Literal["plain", "ratio"] = "plain"
    """plain: λ is the strength; ratio: the strength times (original training rows / new training rows)"""

    @property
    def fisher_storage(self) -> Storage:
        return self.storage

    def parts(self) -> Parts:
        return super().parts()._replace(prepare=self._prepare, pull=self._pull)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return {"fisher": the diagonal without fresh heads, as stored, "unit": the factor of the strength in λ}.

        Raises: InputError if there are neither original data nor an artefact, for an artefact of another base, and if
        the unit is `ratio` and a number of rows is not known.
        """
        stored, original_rows = self.information(context, key)
        unit = 1.0 if self.unit == "plain" else _ratio(original_rows, context.rows.get("new"))
        if self.unit == "ratio":
            context.note(f"EWC: λ = {self.strength:g} · N_original / N_new = {self.strength * unit:.6g}")
        return {"fisher": stored, "unit": jnp.float32(unit)}

    def _pull(self, now: StepContext) -> tuple[jax.Array, Params]:
        return 0.5 * self.strength * now.aux["unit"], unpack(now.aux["fisher"])


def _ratio(original_rows: int | None, new_rows: int | None) -> float:
    if not original_rows or not new_rows:
        raise InputError("--ewc.unit ratio needs the rows of both tasks, original and new: use --ewc.unit plain")
    return original_rows / new_rows
