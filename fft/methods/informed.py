"""The base of methods that use the Fisher information of the original task: measured by the run or read from disk."""

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
    """The settings of a Fisher pass and of the storage of its result."""

    storage: Storage = "float32"
    """how the run stores the Fisher information it measures: float32, bfloat16, or int8 in blocks"""


@dataclass(frozen=True)
class Informed(FisherPass, Method):
    """A method with the settings of its own Fisher pass, or the artefact to read instead."""

    fisher: Annotated[str | None, TELLS_DEFAULT, LOCAL] = None
    """the folder that `fft fisher` wrote, instead of measuring in this run; then no original data are needed"""

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        defaults = self._defaults if self.fisher is not None else {}
        unused = [name for name, default in defaults.items() if getattr(self, name) != default]
        if unused:
            flag = f"--{self.name}.{unused[0].replace('_', '-')}"
            raise InputError(
                f"{flag} is a setting of the run's own Fisher pass, which --fisher replaces: leave one out"
            )

    @property
    def fisher_storage(self) -> Storage:
        """The storage of the result of its own pass."""
        return "float32"

    @property
    def fisher_pass(self) -> FisherPass:
        """The settings of its own pass."""
        return FisherPass(**{field.name: getattr(self, field.name) for field in dataclasses.fields(FisherPass)})

    def continued(self, run: str | None, fisher: str | None) -> "Informed":
        return self if fisher is None else dataclasses.replace(self, fisher=fisher, **self._defaults)

    @property
    def _defaults(self) -> dict:
        """The defaults of the settings of its own pass."""
        own = {field.name for field in dataclasses.fields(FisherPass)} | {"storage"}
        return {field.name: field.default for field in dataclasses.fields(self) if field.name in own}

    def parts(self) -> Parts:
        """Return the slots for reading or measuring the information; subclasses add its use."""
        if self.fisher is None:
            return Parts(needs=frozenset({"original"}))
        return Parts(check=partial(self._check, self.fisher))

    def _check(self, fisher: str, context: Context) -> None:
        """Reject an artefact of another base or original task, or one without the head that the run fits.

        Raises: InputError.
        """
        _, provenance = load_fisher(fisher, context.base, context.base_sha256)
        if context.fitted:
            raise InputError(
                f"--original-head fit trains a head that the Fisher information in {fisher} does not cover: leave "
                "--fisher out, and the run measures its own"
            )
        original = context.original
        if context.batches is None or original is None:
            return
        if set(original.heads) - set(provenance["tasks"]):
            tasks = ", ".join(provenance["tasks"])
            raise InputError(
                f"the Fisher information in {fisher} is of the task {tasks}, the original task of this run is "
                f"{original.name}: give the Fisher information of that task"
            )
        if provenance["task"]["name"] == original.name and provenance["data"]["train"] != context.identity["original"]:
            context.note(
                f"warning: the pass of {fisher} read other rows than this run's original training rows, or cut them to "
                "another --max-length"
            )

    def information(self, context: Context, key: jax.Array) -> tuple[Params, int | None]:
        """Return the diagonal without fresh heads, as stored, and the number of original training rows.

        Raises: InputError if there are neither original data nor an artefact, and for an artefact of another base.
        """
        if self.fisher is not None:
            stored, provenance = load_fisher(self.fisher, context.base, context.base_sha256)
            source = f", of {tasks_of(provenance)}, from {self.fisher}"
            _note(context, provenance["estimator"], provenance["examples"], provenance["trace"], source)
            return stored, provenance["data"]["train_rows"]
        if context.batches is None:
            raise InputError(f"{self.name} measures the original task: give --original, or --fisher")
        measured, task = context.fisher(self, key)
        sigma = f", residual sd {task.sigma:.4g}" if isinstance(task, Regress) else ""
        _note(context, measured.estimator, measured.examples, measured.trace, sigma)
        return pack(measured.diagonal, self.fisher_storage), context.rows.get("original")


def _note(context: Context, estimator: str, examples: int, trace: float, suffix: str) -> None:
    context.note(f"Fisher ({estimator}) over {counted(examples, 'original row')}: trace {trace:.4g}{suffix}")
