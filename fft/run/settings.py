"""What a Fisher pass and a sequence of runs are asked for. The fields of the first are the flags of `fft fisher`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fft.core.bounds import Seed, Share, check_bounds
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, listed, recorded
from fft.data.settings import NO_DATA, Data, Texts
from fft.disk.local import CHECKPOINT, make_local
from fft.experiment import Experiment, Optim, Retention, ScoredLength, TextLength
from fft.fisher.diagonal import FisherPass
from fft.fisher.storage import Storage
from fft.methods import Full, Method
from fft.methods import to_json as method_to_json
from fft.methods.informed import Informed


@dataclass(frozen=True)
class FisherSettings:
    """Which Fisher information: of which checkpoint, on which data, estimated and stored how."""

    model: Annotated[str, TELLS_DEFAULT, CHECKPOINT] = ""
    """a folder with a Hugging Face checkpoint, a finished run, or hf:NAME (not needed with --show alone)"""
    original: Data = NO_DATA
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head of the original task, where the checkpoint has several (default: its classifier)"""
    max_length: ScoredLength = None
    estimate: tyro.conf.OmitArgPrefixes[FisherPass] = field(default_factory=FisherPass)
    storage: Storage = "float32"
    """how the artefact stores the numbers; int8 is in blocks"""
    previous: Path | None = None
    """an artefact of an earlier task, to which this one is added: online EWC"""
    gamma: Share = 1.0
    """what the previous one is multiplied by"""
    mesh: Literal["none", "data", "fsdp"] = "none"
    """split every batch over all devices, with the parameters on each (data) or split too (fsdp)"""
    seed: Seed = 0
    """seeds the choice of rows, the draws, and the split of a source that has one"""

    def __post_init__(self) -> None:
        check_bounds(self)
        make_local(self)
        if self.gamma != 1.0 and self.previous is None:
            raise InputError("--gamma fades the artefact of an earlier task: give --previous")


@dataclass(frozen=True)
class SequenceSettings:
    """Which tasks are learned in which order, from which model, and how."""

    model: str
    tasks: tuple[Data, ...]
    original: tuple[Data, ...] = ()
    """what the model can do before the first task"""
    method: Method = field(default_factory=Full)
    optim: Optim = field(default_factory=Optim)
    retention: Retention = field(default_factory=Retention)
    head: Literal["new", "shared"] = "new"
    original_head: tuple[str, ...] = ()
    max_length: TextLength | None = None
    seed: Seed = 0
    unlabelled: Texts | None = None
    gamma: Share | None = None
    """what the Fisher information of earlier tasks fades by, a stage; None: it is measured anew on all their rows"""

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("tasks", "original", "original_head"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        if len(self.tasks) < 2:
            raise InputError(f"--tasks: a sequence is of two tasks or more, got {len(self.tasks)}")
        if not self.method.tree.plain:
            raise InputError(
                f"{self.method.label} ends as an adapter on its base, which no further task can start from: a sequence "
                "needs a method that ends in the base's own parameters"
            )
        if len(self.retention.drops) > 1:
            raise InputError("--max-drop of a sequence is one for all tasks: from stage to stage more of them are held")
        self._check_fisher()
        every = (*self.original, *self.tasks)
        if odd := [data.source for data in every if data.kind != "classification"]:
            raise InputError(f"a sequence averages the scores of its tasks, and {odd[0]} is not classification")
        seen = [(data.source, data.text, data.pair, data.label) for data in every]
        if twice := [one[0] for at, one in enumerate(seen) if one in seen[:at]]:
            raise InputError(f"{twice[0]} is named twice, with the same columns: leave one of them out")
        # What the last stage would refuse is refused before the first one.
        Experiment(
            self.model, every[-1], every[:-1], self.method, self.optim, self.retention, unlabelled=self.unlabelled
        )

    def _check_fisher(self) -> None:
        readers = [member for member in self.method.members if isinstance(member, Informed)]
        if given := [member.name for member in readers if member.fisher is not None]:
            raise InputError(f"--{given[0]}.fisher is of one model, and each stage has its own: leave it out")
        if self.gamma is None:
            return
        if not readers:
            raise InputError(f"--gamma fades Fisher information, which {self.method.label} does not read; ewc does")
        if "fit" in self.original_head:
            raise InputError("--gamma measures the base's own head, and --original-head fit makes one: leave one out")

    def to_json(self) -> dict[str, Any]:
        """What two calls on one folder must agree in."""
        return recorded(self) | {"method": method_to_json(self.method)}
