"""KL to the base: distil the original head's predictions from the base on original or unlabelled inputs."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal, cast

import jax
import jax.numpy as jnp
import tyro

from fft.core.batch import Batch, Outputs
from fft.core.bounds import CountOrZero, NonNegative, Temperature
from fft.core.errors import InputError
from fft.core.settings import later
from fft.core.tree import Params
from fft.methods.base import Method, Ratio
from fft.methods.context import Context
from fft.methods.parts import Parts, StepContext
from fft.tasks import Language, Task

Likeliest = Annotated[
    CountOrZero,
    tyro.conf.arg(
        help="of a language head: the base's so many likeliest tokens at every place are computed once, before step 1, "
        "and all others count as one (20 are enough); 0: the base is run in every step"
    ),
]
"""the setting of methods that compare with the base's predictions"""


@dataclass(frozen=True)
class KL(Method):
    """Add  λ τ² mean KL(p* ‖ p)  over a batch of inputs; p* and p are the original head's predictions in the
    base and now.

    Labels are not used. The base's logits are computed once, before step 1, for the rows that the run will read; those
    of a language head, [T, V] for each row, in every step, unless `likeliest` keeps the few that matter.

    References: Hinton et al. 2015, arXiv 1503.02531; Li and Hoiem 2016, arXiv 1606.09282, who use new inputs (lwf).
    """

    name: ClassVar[str] = "kl"
    strength: NonNegative = 1.0
    """λ"""
    on: Literal["original", "unlabelled"] = "original"
    """the inputs: the original task's training rows, or the texts of --unlabelled"""
    ratio: Ratio = 1.0
    """such inputs per new row in a step"""
    temperature: Temperature = 1.0
    """τ; above 1 unlikely classes have more weight"""
    likeliest: Likeliest = later(0)

    def parts(self) -> Parts:
        return Parts(
            needs=frozenset({"head"}),
            streams={self.on: self.ratio},
            check=partial(check_teacher, self.name, self.on, self.likeliest),
            teaches=frozenset() if self.likeliest else frozenset({self.on}),
            prepare=self._prepare,
            losses={self.on: self._loss},
            by_token=frozenset({self.on}),
        )

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return what `taught` returns for the stream."""
        return taught(context, self.on, self.likeliest, self.temperature)

    def _loss(self, now: StepContext, outputs: Outputs, batch: Batch, task: Task) -> jax.Array:
        return self.strength * divergence(outputs, batch, now.aux, task, self.temperature)


def require_head(method: str, context: Context) -> None:
    """Reject a base without an original head.

    Raises: InputError.
    """
    if context.original is None:
        raise InputError(
            f"{method} preserves the predictions of the original head, and the checkpoint has no head that is its "
            "classifier: name one with --original-head, or give --original with --original-head fit"
        )


def check_teacher(method: str, stream: str, likeliest: int, context: Context) -> None:
    """Reject a base without an original head, and likeliest tokens where it predicts none that stay the same.

    Raises: InputError.
    """
    require_head(method, context)
    task, flag = context.original, f"--{method}.likeliest {likeliest}"
    if not likeliest or task is None:
        return
    if task.stores:
        raise InputError(
            f"{flag} is for the tokens of a language head, and the original task is {task.kind}, whose predictions are "
            "computed once in any case: leave it out"
        )
    if stream not in context.fixed_tokens:
        raise InputError(
            f"{flag} keeps the base's predictions of the tokens of the {stream} rows from before step 1, and in these "
            "rows no tokens are predicted, or hidden ones that are drawn anew in every epoch: leave it out"
        )


def taught(context: Context, stream: str, likeliest: int, temperature: float) -> Params:
    """Return what the base's original head predicts on a stream: {"logits": [N, C] or [N, T, C]} by row; of a language
    head {"likeliest", "logs": [M, K]} of the K = `likeliest` tokens by target, or {} for 0.
    """
    if context.original is None or context.original.stores:
        return {"logits": jnp.asarray(context.teacher.outputs(stream, "logits"))}
    if not likeliest:
        return {}
    ids, logs = context.teacher.likeliest(stream, likeliest, temperature)
    return {"likeliest": jnp.asarray(ids), "logs": jnp.asarray(logs)}


def divergence(outputs: Outputs, batch: Batch, aux: Params, task: Task, temperature: float) -> jax.Array:
    """Return the task's divergence of the original head's predictions from the base's at a temperature.

    [B], or [B, T] or [B, S] for a task that reads tokens; `aux` is the result of `taught`.
    """
    if "likeliest" in aux:
        assert batch.numbers is not None  # batches that are trained on have them
        of_base = aux["likeliest"][batch.numbers], aux["logs"][batch.numbers]
        return cast("Language", task).divergences_from(*of_base, outputs, batch, temperature)
    if outputs.base is not None and not task.stores:
        return task.divergences(outputs.base, outputs, batch, temperature)
    logits = task.logits(outputs, batch)
    teacher = aux["logits"][batch.row]
    if task.reads == "tokens":
        teacher = teacher[:, : logits.shape[1]]  # the base's logits are padded to the longest row
    return task.divergence(teacher, logits, temperature)
