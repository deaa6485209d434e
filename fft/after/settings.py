"""The settings of check, diagnose, repair and merge. The fields are the commands' flags, with their help texts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from fft.core.bounds import Count, Seed, check_bounds
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, for_each
from fft.data.settings import NO_DATA, Data, MetricName, scored_by
from fft.data.several import HEADS, SeveralData
from fft.disk.local import CHECKPOINT, CheckpointPath, make_local
from fft.experiment import Retention, ScoredLength
from fft.merging.recipes import FormulaSettings
from fft.stats.budget import Budget

BasePath = Annotated[
    tyro.conf.Positional[CheckpointPath],
    tyro.conf.arg(
        metavar="BASE", help="the checkpoint before tuning: a Hugging Face folder, a finished run, or hf:NAME"
    ),
]
TunedPath = Annotated[
    tyro.conf.Positional[CheckpointPath],
    tyro.conf.arg(metavar="TUNED", help="the checkpoint that was tuned from it"),
]
MaxDrop = Annotated[
    str,
    tyro.conf.arg(
        help="the accepted drop of the original score: in units of the score (0.01), or as a share of the base's (1%)"
    ),
]
DEFAULT_DROP = f"{Retention.tolerance:g}"


class ScoredTask(NamedTuple):
    """A task that two checkpoints are scored on, and the name of its head in each (None: see `check`)."""

    data: Data
    head: str | None = None
    tuned_head: str | None = None


@dataclass(frozen=True)
class CheckSettings:
    """The settings of a check: two checkpoints, the tasks, and the accepted drop of each original score."""

    base: BasePath
    tuned: TunedPath
    original: SeveralData
    new: Data = NO_DATA
    max_drop: MaxDrop = DEFAULT_DROP
    metric: MetricName = None
    head: Annotated[tuple[str, ...], HEADS] = ()
    """the original task's head in both, the same as --original.name; one for all original tasks, or one each
    (default: the base's classifier)"""
    tuned_head: Annotated[tuple[str, ...], HEADS] = ()
    """the original task's head in TUNED; one for all, or one each (default: the one named as in BASE, else its
    classifier)"""
    held_out: bool = False
    """score only the rows that `fft tune` holds out for its test, a tenth of a source with one split"""
    max_length: ScoredLength = None

    def __post_init__(self) -> None:
        check_bounds(self)
        make_local(self)
        Budget.parse(self.max_drop)
        if not self.original.source:
            raise InputError("--original is missing: give data of a task that the base knows, such as old.csv")
        for task, head in zip(self._tasks, self._heads("head"), strict=False):
            if head and task.name not in (None, head):
                raise InputError(f"--head {head} and --original.name {task.name} differ; give one")

    @property
    def originals(self) -> tuple[ScoredTask, ...]:
        """The original tasks, with their heads."""
        tasks = zip(self._tasks, self._heads("head"), self._heads("tuned_head"), strict=False)
        return tuple(ScoredTask(task, head or task.name, tuned_head) for task, head, tuned_head in tasks)

    @property
    def new_task(self) -> ScoredTask | None:
        """The new task, if there is one."""
        return ScoredTask(self._tasks[-1], self.new.name) if self.new.source else None

    @property
    def _tasks(self) -> tuple[Data, ...]:
        """The original tasks and, last, the new one, with their metrics."""
        return scored_by(self.metric, [*self.original.each("original"), *([self.new] if self.new.source else [])])

    def _heads(self, name: str) -> tuple[str | None, ...]:
        return for_each(name.replace("_", "-"), getattr(self, name), len(self.original.source), "original task", None)


@dataclass(frozen=True)
class DiagnoseSettings:
    """The settings of a diagnosis: two checkpoints, the original task, and how many of its rows are used."""

    base: BasePath
    tuned: TunedPath
    original: Data
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the original task's head in both (default: the base's classifier)"""
    tuned_head: Annotated[str | None, TELLS_DEFAULT] = None
    """the original task's head in TUNED (default: the one named as in BASE, else its classifier)"""
    fisher: Annotated[Path | None, TELLS_DEFAULT] = None
    """the output folder of `fft fisher` for BASE on the original task (default: the Fisher information is measured)"""
    fisher_rows: Count = 512
    """the most original training rows that the Fisher information is measured on, without --fisher"""
    fit_rows: Count = 4096
    """the most original training rows that heads are fitted to"""
    rows: Count = 2048
    """the most original test rows that every model is scored on, chosen by the seed"""
    metric: MetricName = None
    max_length: ScoredLength = None
    seed: Seed = 0
    """seeds the choice of rows and the draws of the Fisher pass"""

    def __post_init__(self) -> None:
        check_bounds(self)
        make_local(self)

    @property
    def task(self) -> Data:
        """The original task with its metric."""
        return scored_by(self.metric, [self.original])[0]


@dataclass(frozen=True)
class RepairSettings:
    """The settings of a repair: two checkpoints, both tasks, the accepted drop, and which merged models are tried."""

    base: BasePath
    tuned: TunedPath
    original: Data
    new: Data
    max_drop: MaxDrop = DEFAULT_DROP
    also: tuple[Literal["layers", "ties", "dare"], ...] = ("layers",)
    """merging formulas to try in addition to one α for all layers: an α for each layer, TIES, DARE; `--also` without a
    value: none"""
    sweeps: Count = 1
    """how often the search for an α for each layer goes through the layers"""
    rows: Count = 1024
    """the most validation rows of each task that candidates are scored on"""
    fisher: Annotated[Path | None, TELLS_DEFAULT] = None
    """the output folder of `fft fisher` for BASE on the original task: merging weighted by it is tried too"""
    new_fisher: Annotated[Path | None, TELLS_DEFAULT] = None
    """the output folder of `fft fisher` for TUNED on the new task (default: the same weight for every parameter)"""
    metric: MetricName = None
    original_head: Annotated[str | None, TELLS_DEFAULT] = None
    """the original task's head in BASE (default: its classifier)"""
    new_head: Annotated[str | None, TELLS_DEFAULT] = None
    """the new task's head in TUNED (default: its classifier)"""
    max_length: ScoredLength = None
    seed: Seed = 0
    """seeds the choice of the entries that DARE drops"""

    def __post_init__(self) -> None:
        check_bounds(self)
        make_local(self)
        Budget.parse(self.max_drop)
        if self.new_fisher is not None and self.fisher is None:
            raise InputError("--new-fisher has no effect without the base's Fisher information: give --fisher too")

    @property
    def tasks(self) -> dict[str, Data]:
        """The two tasks, "original" and "new", with their metrics."""
        original, new = scored_by(self.metric, [self.original, self.new])
        return {"original": original, "new": new}


@dataclass(frozen=True)
class MergeSettings:
    """The settings of a merge: the models and the formula."""

    base: Annotated[
        tyro.conf.Positional[CheckpointPath],
        tyro.conf.arg(
            metavar="BASE",
            help="the checkpoint that the others were tuned from: a Hugging Face folder, a finished run, or hf:NAME",
        ),
    ]
    tuned: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="TUNED [TUNED ...]", help_behavior_hint=""),
        CHECKPOINT,
    ]
    """the checkpoints that were tuned from it"""
    how: Literal["interpolate", "soup", "arithmetic", "ties", "dare", "fisher"]
    """the formula, see docs/merge.md"""
    formula: tyro.conf.OmitArgPrefixes[FormulaSettings] = field(default_factory=FormulaSettings)
    task: Data = NO_DATA
    heads: Literal["shared", "apart"] = "shared"
    """whether heads of TUNED models with the same name and labels become one merged head, or one for each model"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head that becomes the classifier, by its name in the merged model (default: that of the first TUNED)"""
    max_length: Annotated[int | None, TELLS_DEFAULT] = None
    """the number of tokens that the merged model cuts texts to (default: as the models were trained, if known)"""

    def __post_init__(self) -> None:
        check_bounds(self)
        make_local(self)
        if self.task.source and self.how != "soup":
            raise InputError(f"--task is unused by --how {self.how}: leave it out, or give --how soup, which reads it")
