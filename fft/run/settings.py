"""The settings of a Fisher pass, whose fields are the flags of `fft fisher`, and of a sequence of runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fft.core.bounds import Seed, Share, check_bounds
from fft.core.computation import PRECISE, Computation
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, later, listed, recorded
from fft.data.kinds import KINDS
from fft.data.settings import NO_DATA, Data, Texts, repeated
from fft.disk.local import CHECKPOINT, make_local
from fft.experiment import Experiment, Optim, Retention, ScoredLength, TextLength
from fft.fisher.diagonal import FisherPass
from fft.fisher.storage import Storage
from fft.methods import Full, Method
from fft.methods import to_json as method_to_json
from fft.methods.informed import Informed


@dataclass(frozen=True)
class FisherSettings:
    """The settings of a Fisher pass: checkpoint, data, estimator and storage."""

    model: Annotated[str, TELLS_DEFAULT, CHECKPOINT] = ""
    """a folder with a Hugging Face checkpoint, a finished run, or hf:NAME (not needed with --show alone)"""
    original: Data = NO_DATA
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head of the original task, where the checkpoint has several (default: its classifier)"""
    max_length: ScoredLength = None
    estimate: tyro.conf.OmitArgPrefixes[FisherPass] = field(default_factory=FisherPass)
    storage: Storage = "float32"
    """number format of the stored values; int8 is quantised in blocks"""
    previous: Path | None = None
    """the Fisher information of an earlier task, to which this one is added (online EWC)"""
    gamma: Share = 1.0
    """the factor that the previous Fisher information is multiplied by"""
    mesh: Literal["none", "data", "fsdp"] = "none"
    """split every batch over all devices, with the parameters replicated (data) or split as well (fsdp)"""
    seed: Seed = 0
    """seeds the choice of rows and the label draws"""

    def __post_init__(self) -> None:
        check_bounds(self)
        make_local(self)
        if self.gamma != 1.0 and self.previous is None:
            raise InputError("--gamma multiplies the Fisher information of an earlier task: give --previous")


@dataclass(frozen=True)
class SequenceSettings:
    """The settings of a sequence: the tasks in order, the first model, and the settings of all stages."""

    model: str
    tasks: tuple[Data, ...]
    original: tuple[Data, ...] = ()
    """tasks that the model can do before the first one of the sequence"""
    method: Method = field(default_factory=Full)
    optim: Optim = field(default_factory=Optim)
    retention: Retention = field(default_factory=Retention)
    head: Literal["new", "shared"] = "new"
    original_head: tuple[str, ...] = ()
    max_length: TextLength | None = None
    seed: Seed = 0
    unlabelled: Texts | None = None
    gamma: Share | None = None
    """the factor by which the Fisher information of earlier tasks is multiplied at each stage; None: it is measured
    anew on all their rows"""
    computation: Computation = later(PRECISE)

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("tasks", "original", "original_head"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        if len(self.tasks) < 2:
            raise InputError(f"--tasks: a sequence needs two tasks or more, got {len(self.tasks)}")
        if not self.method.tree.plain:
            raise InputError(
                f"{self.method.label} ends as an adapter on its base, which no further task can start from: a sequence "
                "needs a method whose result is an ordinary checkpoint, such as full or ewc"
            )
        if len(self.retention.drops) > 1:
            raise InputError("`fft sequence` takes a single --max-drop: give one, it applies to every task")
        self._check_fisher()
        every = (*self.original, *self.tasks)
        scored = {KINDS[data.kind].scored: data for data in every if data.kind is not None}
        if "regression" in scored or len(scored) > 1:
            odd = scored.get("regression", every[-1])
            raise InputError(
                f"{odd.source} is {odd.kind}: a sequence averages the scores of its tasks, so all must be "
                "classification, all be text, completions or chat, or all be answers: leave it out"
            )
        if source := repeated(every):
            raise InputError(f"{source} is named twice, with the same columns: leave one of them out")
        # Built only for its checks: what the last stage would refuse is refused before the first one.
        Experiment(
            self.model,
            every[-1],
            every[:-1],
            self.method,
            self.optim,
            self.retention,
            unlabelled=self.unlabelled,
            computation=self.computation,
        )

    def _check_fisher(self) -> None:
        readers = [member for member in self.method.members if isinstance(member, Informed)]
        if fixed := [member.name for member in readers if member.fisher is not None]:
            raise InputError(f"--{fixed[0]}.fisher is of one model, and each stage has its own: leave it out")
        if self.gamma is None:
            return
        if not readers:
            raise InputError(
                f"--gamma has no effect: {self.method.label} does not use Fisher information. Leave it out, or use ewc"
            )
        if "fit" in self.original_head:
            raise InputError(
                "--gamma needs the base's own head, and --original-head fit trains a new one: leave one out"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the content of plan.json; two calls on one folder must agree in it."""
        return recorded(self) | {"method": method_to_json(self.method)}
