"""Pseudo-rehearsal: distillation from the base on texts that a masked language model partly rewrote."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Outputs
from fft.core.bounds import NonNegative, PositiveShare, Temperature
from fft.core.settings import TELLS_DEFAULT
from fft.core.tree import Params
from fft.disk.local import CHECKPOINT
from fft.methods.base import Method, Ratio
from fft.methods.context import Context
from fft.methods.kl import divergence, require_head
from fft.methods.parts import Parts, StepContext
from fft.tasks import Task


@dataclass(frozen=True)
class Pseudo(Method):
    """Add  λ τ² mean KL(p* ‖ p)  over pseudo-texts: the texts of --unlabelled with a share of their tokens masked and
    redrawn by a masked language model. p* and p are the predictions of the original head in the base and now.

    The pseudo-texts and the base's logits are computed once, before step 1, for the rows that the run will read.

    Reference: Robins 1995, Connection Science 7 (2), "Catastrophic forgetting, rehearsal and pseudorehearsal", whose
    pseudo-items are random; here they are derived from texts, because random token sequences rarely resemble text.
    """

    name: ClassVar[str] = "pseudo"
    strength: NonNegative = 1.0
    """λ"""
    ratio: Ratio = 1.0
    """pseudo-texts per new row in a step"""
    share: PositiveShare = 0.15
    """share of a text's tokens that is masked and filled in, at least one token"""
    temperature: Temperature = 1.0
    """τ; above 1 unlikely classes have more weight"""
    filler: Annotated[str | None, TELLS_DEFAULT, CHECKPOINT] = None
    """a masked language model with the base's vocabulary: a folder or hf:NAME (default: the base, where it is one)"""

    def parts(self) -> Parts:
        return Parts(
            needs=frozenset({"head"}),
            streams={"unlabelled": self.ratio},
            check=self._check,
            prepare=self._prepare,
            inputs={"unlabelled": _pseudo_texts},
            losses={"unlabelled": self._loss},
        )

    def _check(self, context: Context) -> None:
        """Reject a base without an original head, and a filler that does not fit the base.

        Raises: InputError.
        """
        require_head(self.name, context)
        context.teacher.check_filler(self.filler)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return {"ids": int32 [N, T], "logits": the base's [N, C]}, by index of the stream's rows."""
        rows = context.teacher.pseudo_rows("unlabelled", self.filler, self.share, key)
        for note in rows.notes:
            context.note(note)
        return {"ids": jnp.asarray(rows.ids), "logits": jnp.asarray(rows.logits)}

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        return self.strength * divergence(outputs, batch, now.aux, task, self.temperature)


def _pseudo_texts(now: StepContext, batch: Batch) -> Batch:
    """Replace the texts of a batch by their pseudo-texts."""
    return batch._replace(ids=now.aux["ids"][batch.row, : batch.ids.shape[1]])
