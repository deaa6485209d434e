"""What is run, as frozen data: an Experiment goes to JSON and comes back, strictly."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Interval

from fft.core.bounds import Count, CountOrZero, NonNegative, Positive, Seed, Share, check_bounds
from fft.core.errors import InputError
from fft.core.naming import ORIGINAL, numbered
from fft.core.settings import (
    TELLS_DEFAULT,
    alone,
    for_each,
    later,
    listed,
    recorded,
    validated,
)
from fft.data.settings import STRICT, Data, Texts
from fft.disk.files import parsed_file
from fft.disk.local import CheckpointPath, local, make_local
from fft.methods import Full, Method
from fft.methods import from_json as method_from_json
from fft.methods import to_json as method_to_json
from fft.stats.budget import Budget

LEAST_LENGTH = 3
"""tokens: one of the text, between two special ones"""
TextLength = Annotated[int, Interval(ge=LEAST_LENGTH)]
ScoredLength = Annotated[
    TextLength | None,
    tyro.conf.arg(
        help="tokens of a text; longer ones are cut and counted (default: as in its training, else 128 or what it "
        "takes)",
        help_behavior_hint="",
    ),
]
"""of a command that scores a checkpoint"""
BatchCount = Annotated[int, Interval(ge=1, le=65_536)]
"""rows of a forward pass, and passes of a step"""
TrainedLength = Annotated[
    TextLength | None,
    tyro.conf.arg(
        help="tokens of a text; longer ones are cut and counted (default: 128, or as many as the model takes)",
        help_behavior_hint="",
    ),
]
"""of a command that trains"""
SEVERAL_DROPS = tyro.conf.arg(metavar="DROP [DROP ...]", help_behavior_hint="")


@dataclass(frozen=True)
class Optim:
    """How the new task is optimised: the optimizer, its rate and schedule, clipping."""

    lr: Annotated[Positive | None, TELLS_DEFAULT] = None
    """peak learning rate (default: the method's own, 5e-5 for whole weights, more for adapters)"""
    epochs: Positive = 3.0
    """passes over the new training rows"""
    steps: Count | None = None
    """optimizer steps, instead of epochs"""
    batch_size: BatchCount = 32
    """rows of one forward pass"""
    accumulate: BatchCount = 1
    """forward passes an optimizer step"""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """what the rate does after warmup"""
    warmup: Share = 0.1
    """share of the steps over which the rate rises from 0"""
    weight_decay: NonNegative = 0.01
    """share of a parameter that a step takes off, times the rate; never of one-dimensional parameters"""
    clip: NonNegative = 1.0
    """the largest global norm of the trained gradients; 0 is off"""
    optimizer: Literal["adamw", "lion", "sgd", "adafactor"] = later("adamw")
    """the optimizer of optax; sgd has a momentum of 0.9"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def step_rows(self) -> int:
        """New rows of a step: those of all its forward passes."""
        return self.accumulate * self.batch_size


@dataclass(frozen=True)
class Retention:
    """What may be lost on the original task, and how the run watches it."""

    tolerance: NonNegative = 0.01
    """the drop of the original score that is accepted, in units of the score"""
    drop_weight: NonNegative = 1.0
    """how much a drop beyond the tolerance costs in the combined score that picks the best step"""
    patience: CountOrZero = 0
    """stop after this many scorings without a better combined score; 0 is off"""
    max_drop: Annotated[tuple[str, ...] | str | None, SEVERAL_DROPS] = ()
    """the contract: end within this drop of the original score, 0.01 in its units or 1% of what it was, one for all
    original tasks or one each; strength or rate are driven by held-out original rows (default: nothing is driven)"""
    keep: Literal["best", "latest"] = "best"
    """the step that becomes the model: the best combined score on the probe, or the last one trained"""
    eval_every: Annotated[Count | None, TELLS_DEFAULT] = None
    """steps between scorings (default: eight, evenly over the run)"""
    probe: Count = 128
    """validation rows of each task that every scoring uses"""
    checkpoints: Literal["tidy", "keep"] = later("tidy")
    """what stays of the saved steps once the run is finished: what was trained at the best and the last, or all"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        check_bounds(self)
        object.__setattr__(self, "max_drop", listed(self.max_drop))
        for text in self.drops:
            Budget.parse(text)
        if self.drops and self.tolerance != Retention.tolerance:
            raise InputError("--max-drop is the drop that is accepted under a contract: leave out --tolerance")
        if self.drops and self.keep == "latest":
            raise InputError("--keep latest keeps the last step whatever it lost; leave it or --max-drop out")

    @property
    def drops(self) -> tuple[str, ...]:
        """What `max_drop` holds, which is a tuple once the settings are made."""
        return listed(self.max_drop)


@dataclass(frozen=True)
class Experiment:
    """Everything a run depends on. Two equal experiments give the same result, bit for bit on CPU.

    Example: `Experiment(model="bert/", new=Data("new.csv"), original=Data("old.csv"), method=LoRA() + EWC())`
    """

    model: CheckpointPath
    """a folder with a Hugging Face checkpoint (safetensors), or hf:NAME"""
    new: Data
    original: tuple[Data, ...] = ()
    """data of the original tasks; one may be given as itself"""
    method: Method = field(default_factory=Full)
    optim: Optim = field(default_factory=Optim)
    retention: Retention = field(default_factory=Retention)
    head: Literal["new", "shared"] = "new"
    """the new task's head: a fresh one, or the (first) original's where the labels are the same"""
    original_head: tuple[str, ...] = ()
    """the original task's head: a name, or `fit` to train one on the frozen base (default: the checkpoint's); one for
    all original tasks, or one each"""
    max_length: TrainedLength = None
    seed: Seed = 0
    """seeds the data order, dropout, fresh parameters and draws"""
    unlabelled: Texts | None = None
    """texts without labels for methods that read some"""

    def __post_init__(self) -> None:
        check_bounds(self)
        make_local(self)
        for name in ("original", "original_head"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        if not self.original and "original" in self.method.needs:
            raise InputError(f"the method {self.method.label} needs data of the original task: give --original")
        if self.unlabelled is None and "unlabelled" in self.method.streams:
            raise InputError(f"the method {self.method.label} reads texts without labels: give --unlabelled")
        if self.unlabelled is not None and "unlabelled" not in self.method.streams:
            readers = "pseudo, and kl and distill with `on unlabelled`"
            raise InputError(f"--unlabelled is read by {readers}, not by {self.method.label}")
        if not self.original and self.retention.drops:
            raise InputError("--max-drop is measured on the original task: give --original")
        self._check_heads()
        self._check_originals()

    def _check_heads(self) -> None:
        """Refuse names of heads that would have no effect."""
        if self.head == "shared" and self.new.name is not None:
            raise InputError(f"--head shared makes no head that --new.name {self.new.name} could name: leave one out")
        if self.original:
            return
        if "fit" in self.original_head:
            raise InputError("--original-head fit trains a head on original data: give --original")
        if self.original_head and self.head == "new" and "head" not in self.method.needs:
            raise InputError(
                f"--original-head {self.original_head[0]} has no effect: without --original nothing is scored with it, "
                f"and the method {self.method.label} does not ask it"
            )

    def _check_originals(self) -> None:
        """Refuse original tasks that are no two, or none that can be held together, and settings for others of them."""
        seen = [(data.source, data.text, data.pair, data.label) for data in self.original]
        if twice := [one[0] for at, one in enumerate(seen) if one in seen[:at]]:
            raise InputError(f"--original names {twice[0]} twice, with the same columns: leave one of them out")
        if len(seen) > 1 and (odd := [data.source for data in self.original if data.kind != "classification"]):
            raise InputError(
                f"several original tasks must all be classification, and {odd[0]} is regression: their losses have no "
                "common unit. Watch it in a run of its own"
            )
        for_each("original-head", self.original_head, max(1, len(seen)), "original task")
        for_each("max-drop", self.retention.drops, max(1, len(seen)), "original task")

    @property
    def original_heads(self) -> tuple[str | None, ...]:
        """What is asked for as the head of each original task."""
        return for_each("original-head", self.original_head, len(self.original), "original task")

    @property
    def budgets(self) -> tuple[str, ...]:
        """What may be lost of each original task under the contract; empty without one."""
        drops = for_each("max-drop", self.retention.drops, len(self.original), "original task")
        return tuple(drop for drop in drops if drop is not None)

    @property
    def sources(self) -> dict[str, Data | Texts]:
        """The data by the name of their task: "new", "original", "original_2", …, "unlabelled"."""
        originals = zip(numbered(ORIGINAL, len(self.original)), self.original, strict=True)
        return {"new": self.new, **dict(originals)} | ({"unlabelled": self.unlabelled} if self.unlabelled else {})

    def to_json(self) -> dict[str, Any]:
        """The experiment as JSON data; `from_json` gives an equal experiment back. One original task is an object,
        several are a list; likewise their heads and budgets.
        """
        plain = recorded(self)
        return plain | {
            "original": alone(plain["original"]),
            "original_head": alone(self.original_head),
            "retention": plain["retention"] | {"max_drop": alone(self.retention.drops)},
            "method": method_to_json(self.method),
        }


def from_json(data: Any, where: str = "experiment") -> Experiment:
    """The experiment of JSON data. Unknown names, wrong types and values out of range are refused by path."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(data).__name__}")
    names = {f.name for f in dataclasses.fields(Experiment)}
    if unknown := sorted(set(data) - names):
        raise InputError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}")
    if missing := sorted({"model", "new"} - set(data)):
        raise InputError(f"{where}: {', '.join(missing)} is missing")
    types = {"new": Data, "unlabelled": Texts | None, "optim": Optim, "retention": Retention}
    parts = {name: validated(kind, data[name], f"{where}.{name}") for name, kind in types.items() if name in data}
    parts["original"] = tuple(validated(Data, one, f"{where}.original") for one in listed(data.get("original")))
    if "method" in data:
        parts["method"] = method_from_json(data["method"], f"{where}.method")
    hints = {
        "model": str,
        "head": Literal["new", "shared"],
        "original_head": tuple[str, ...] | str | None,
        "max_length": int | None,
        "seed": int,
    }
    parts |= {name: validated(kind, data[name], f"{where}.{name}") for name, kind in hints.items() if name in data}
    return Experiment(**parts)


def completed(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON data of an experiment with every setting that they lack at its default: a setting that did not exist
    when they were written had that value. Data that cannot be read are given back as they are.
    """
    try:
        return from_json(data).to_json()
    except InputError:
        return data


def with_defaults(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a run, its experiment `completed`."""
    return record | {"experiment": completed(record["experiment"])}


def load(path: str | Path) -> Experiment:
    """The experiment in a JSON file, such as a run's experiment.json."""
    path = Path(local(path, "--config"))
    try:
        data = parsed_file(path)
    except OSError as error:
        raise InputError(f"cannot read the experiment {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    return from_json(data, where=path.name)
