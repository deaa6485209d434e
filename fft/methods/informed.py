"""What methods share that read the Fisher information of the original task: a pass of the run's own, or an artefact."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.settings import TELLS_DEFAULT
from fft.core.tree import Params
from fft.disk.local import LOCAL
from fft.fisher.diagonal import FisherPass
from fft.fisher.information import load_fisher, tasks_of
from fft.fisher.storage import Storage, pack
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.parts import Parts
from fft.tasks import Regress


@dataclass(frozen=True)
class Stored(FisherPass):
    """The settings of a pass, and of how what it finds is kept."""

    storage: Storage = "float32"
    """how the pass of the run's own is kept: float32, bfloat16, or int8 in blocks"""


@dataclass(frozen=True)
class Informed(FisherPass, Method):
    """The settings of the pass, or the artefact in its place."""

    fisher: Annotated[str | None, TELLS_DEFAULT, LOCAL] = None
    """what `fft fisher` wrote, in place of a pass of the run's own; then no original data are needed"""

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        defaults = self._defaults if self.fisher is not None else {}
        unused = [name for name, default in defaults.items() if getattr(self, name) != default]
        if unused:
            flag = f"--{self.name}.{unused[0].replace('_', '-')}"
            raise InputError(f"{flag} is of the run's own Fisher pass, which --fisher replaces: leave one out")

    @property
    def its_storage(self) -> Storage:
        """How what its own pass finds is kept."""
        return "float32"

    @property
    def its_pass(self) -> FisherPass:
        """The pass of its own, as settings of nothing else."""
        return FisherPass(**{field.name: getattr(self, field.name) for field in dataclasses.fields(FisherPass)})

    def continued(self, run: str | None, fisher: str | None) -> "Informed":
        return self if fisher is None else dataclasses.replace(self, fisher=fisher, **self._defaults)

    @property
    def _defaults(self) -> dict:
        """The settings that are of a pass of its own."""
        own = {field.name for field in dataclasses.fields(FisherPass)} | {"storage"}
        return {field.name: field.default for field in dataclasses.fields(self) if field.name in own}

    def parts(self) -> Parts:
        """Without what is made of the information."""
        if self.fisher is None:
            return Parts(needs=frozenset({"original"}))
        return Parts(check=partial(self._check, self.fisher))

    def _check(self, fisher: str, context: Context) -> None:
        """Refuse an artefact of another base, of a head that is still to be fitted, or of another original task."""
        _, told = load_fisher(fisher, context.base, context.base_sha256)
        if context.fitted:
            raise InputError(
                f"--original-head fit trains a head that the Fisher information in {fisher} knows nothing of: "
                "leave --fisher out, and the run measures its own"
            )
        original = context.original
        if context.batches is None or original is None:
            return
        if set(original.heads) - set(told["tasks"]):
            raise InputError(
                f"the Fisher information in {fisher} is of the task {', '.join(told['tasks'])}, the original task of "
                f"this run is {original.name}"
            )
        if told["task"]["name"] == original.name and told["data"]["train"] != context.identity["original"]:
            context.note(f"warning: {fisher} read other rows than this run's original training rows")

    def information(self, context: Context, key: jax.Array) -> tuple[Params, int | None]:
        """The diagonal over every parameter but fresh heads, as stored, and the original training rows behind it.

        Raises: InputError without original data and without a Fisher, and for a Fisher of another base.
        """
        if self.fisher is not None:
            stored, told = load_fisher(self.fisher, context.base, context.base_sha256)
            more = f", of {tasks_of(told)}, from {self.fisher}"
            _note(context, told["estimator"], told["examples"], told["trace"], more)
            return stored, told["data"]["train_rows"]
        if context.batches is None:
            raise InputError(f"{self.name} measures the original task: give --original, or --fisher")
        found, task = context.fisher(self, key)
        sigma = f", residual sd {task.sigma:.4g}" if isinstance(task, Regress) else ""
        _note(context, found.estimator, found.examples, found.trace, sigma)
        return pack(found.diagonal, self.its_storage), context.rows.get("original")


def _note(context: Context, estimator: str, examples: int, trace: float, more: str) -> None:
    context.note(f"Fisher ({estimator}) over {counted(examples, 'original row')}: trace {trace:.4g}{more}")
