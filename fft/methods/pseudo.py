"""Pseudo-rehearsal: texts that a masked language model made up, and what the base said to them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from fft.core.batch import Batch, Outputs
from fft.core.bounds import NonNegative, Positive, PositiveShare
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
    drawn anew by a masked language model. p* and p are what the original head says to them in the base and now.

    The pseudo-texts and the base's answers are made once, before step 1, for the rows that the run will see.

    Reference: Robins 1995, Connection Science 7 (2), "Catastrophic forgetting, rehearsal and pseudorehearsal", whose
    pseudo-items are random; here they are made of texts, because few random rows of tokens are like any text.
    """

    name: ClassVar[str] = "pseudo"
    strength: NonNegative = 1.0
    """λ"""
    ratio: Ratio = 1.0
    """pseudo-texts of a step for each new row"""
    share: PositiveShare = 0.15
    """share of a text's tokens that is masked and filled in, at least one"""
    temperature: Positive = 1.0
    """τ; above 1 the unlikely answers weigh more"""
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
        """Refuse a base without a head whose answers can be kept, or without a masked language model that fits."""
        require_head(self.name, context)
        context.teacher.check_filler(self.filler)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """{"ids": int32 [N, T], "logits": the base's [N, C]} at the places of the stream's rows."""
        made = context.teacher.pseudo_rows("unlabelled", self.filler, self.share, key)
        for line in made.told:
            context.note(line)
        return {"ids": jnp.asarray(made.ids), "logits": jnp.asarray(made.logits)}

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        return self.strength * divergence(outputs, batch, now.aux, task, self.temperature)


def _pseudo_texts(now: StepContext, batch: Batch) -> Batch:
    """The pseudo-texts in place of the texts."""
    return batch._replace(ids=now.aux["ids"][batch.row, : batch.ids.shape[1]])
