"""Experiment: the settings of a run as frozen data, with a strict round trip through JSON."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Interval

from fft.core.bounds import Count, CountOrZero, NonNegative, Positive, Seed, Share, check_bounds
from fft.core.computation import PRECISE, Computation
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
from fft.data.kinds import KINDS
from fft.data.settings import STRICT, Data, Texts, repeated
from fft.disk.files import parsed_file
from fft.disk.local import CheckpointPath, local, make_local
from fft.methods import Full, Method
from fft.methods import from_json as method_from_json
from fft.methods import to_json as method_to_json
from fft.methods.trees import BASE_TREE
from fft.stats.budget import Budget

LEAST_LENGTH = 3
"""in tokens: one token of text between two special tokens"""
TextLength = Annotated[int, Interval(ge=LEAST_LENGTH)]
ScoredLength = Annotated[
    TextLength | None,
    tyro.conf.arg(
        help="maximum tokens per text; longer texts are cut and counted (default: the length the checkpoint was "
        "trained at, else 128, of language tasks the longest row, at most 1,024; or the model's maximum if less)",
        help_behavior_hint="",
    ),
]
"""`--max-length` of a command that scores a checkpoint"""
BatchCount = Annotated[int, Interval(ge=1, le=65_536)]
"""the range of `batch_size` and of `accumulate`"""
TrainedLength = Annotated[
    TextLength | None,
    tyro.conf.arg(
        help="maximum tokens per text; longer texts are cut and counted (default: 128, of language tasks the longest "
        "row, at most 1,024; or the model's maximum if less)",
        help_behavior_hint="",
    ),
]
"""`--max-length` of a command that trains"""
SEVERAL_DROPS = tyro.conf.arg(metavar="DROP [DROP ...]", help_behavior_hint="")


@dataclass(frozen=True)
class Optim:
    """How the new task is optimised: optimizer, learning rate, schedule and clipping."""

    lr: Annotated[Positive | None, TELLS_DEFAULT] = None
    """peak learning rate (default: the method's, 5e-5 for full weights, more for adapters)"""
    epochs: Positive = 3.0
    """passes over the new task's training rows"""
    steps: Count | None = None
    """number of optimizer steps, instead of epochs"""
    batch_size: BatchCount = 32
    """rows per forward pass"""
    accumulate: BatchCount = 1
    """forward passes per optimizer step (gradient accumulation)"""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """learning-rate schedule after the warm-up"""
    warmup: Share = 0.1
    """share of the steps in which the learning rate rises from 0 to its peak"""
    weight_decay: NonNegative = 0.01
    """decoupled weight decay, scaled by the learning rate; one-dimensional parameters have none"""
    clip: NonNegative = 1.0
    """clip the gradients to this global norm; 0 disables clipping"""
    optimizer: Literal["adamw", "lion", "sgd", "adafactor"] = later("adamw")
    """optax optimizer; sgd has momentum 0.9"""
    pack: bool = later(False)
    """pack the texts of language tasks into rows of --max-length tokens (default: of the longest text); --batch-size
    counts such rows"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def step_rows(self) -> int:
        """Rows of the new task per optimizer step, over all its forward passes."""
        return self.accumulate * self.batch_size


@dataclass(frozen=True)
class Retention:
    """How much the original task may lose, and how the run monitors it."""

    tolerance: NonNegative = 0.01
    """accepted drop of the original score, in units of the score"""
    drop_weight: NonNegative = 1.0
    """weight of a drop beyond the tolerance in the combined score that selects the best step"""
    patience: CountOrZero = 0
    """stop early after this many evaluations without a better combined score; 0 disables early stopping"""
    max_drop: Annotated[tuple[str, ...] | str | None, SEVERAL_DROPS] = ()
    """the contract: the largest accepted drop of the original score, absolute (0.01) or relative (1%), one value for
    all original tasks or one per task; held-out original rows then control the method's strength or the learning rate
    (default: no contract)"""
    keep: Literal["best", "latest"] = "best"
    """the step that becomes the model: the one with the best combined score on the probe, or the last one"""
    eval_every: Annotated[Count | None, TELLS_DEFAULT] = None
    """steps between evaluations (default: eight evaluations, evenly spaced over the run)"""
    probe: Count = 128
    """validation rows per task that each evaluation scores, with language tasks at most 32 tokens for each"""
    checkpoints: Literal["tidy", "keep"] = later("tidy")
    """checkpoints that remain after the run: the trained parameters of the best and the last step, or all"""
    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        check_bounds(self)
        object.__setattr__(self, "max_drop", listed(self.max_drop))
        for text in self.drops:
            Budget.parse(text)
        if self.drops and self.tolerance != Retention.tolerance:
            raise InputError("--max-drop and --tolerance both set the accepted drop: leave out --tolerance")
        if self.drops and self.keep == "latest":
            raise InputError("--keep latest ignores what was lost, which --max-drop limits: leave out one of them")

    @property
    def drops(self) -> tuple[str, ...]:
        """The values of `max_drop` as a tuple."""
        return listed(self.max_drop)


@dataclass(frozen=True)
class Experiment:
    """Everything a run depends on. Equal experiments give the same result, bit for bit on CPU.

    Example: `Experiment(model="bert/", new=Data("new.csv"), original=Data("old.csv"), method=LoRA() + EWC())`
    """

    model: CheckpointPath
    """a folder with a Hugging Face checkpoint (safetensors), a GGUF file, hf:NAME or demo:smollm2"""
    new: Data
    original: tuple[Data, ...] = ()
    """data of the original tasks; a single one need not be in a tuple"""
    method: Method = field(default_factory=Full)
    optim: Optim = field(default_factory=Optim)
    retention: Retention = field(default_factory=Retention)
    head: Literal["new", "shared"] = "new"
    """head of the new task: a new one, or the head of the (first) original task, if the labels are the same"""
    original_head: tuple[str, ...] = ()
    """head of the original task: a name, or `fit` to train one on the frozen base; one for all original tasks or one
    per task (default: the checkpoint's)"""
    max_length: TrainedLength = None
    seed: Seed = 0
    """random seed of the data order, dropout, new parameters and sampling"""
    unlabelled: Texts | None = None
    """unlabelled texts, for methods that use them"""
    computation: Computation = later(PRECISE)

    def __post_init__(self) -> None:
        check_bounds(self)
        make_local(self)
        for name in ("original", "original_head"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        if not self.original and "original" in self.method.needs:
            raise InputError(f"the method {self.method.label} needs data of the original task: give --original")
        if self.unlabelled is None and "unlabelled" in self.method.streams:
            raise InputError(f"the method {self.method.label} needs unlabelled texts: give --unlabelled")
        if self.unlabelled is not None and "unlabelled" not in self.method.streams:
            raise InputError(
                f"--unlabelled is unused by {self.method.label}: leave it out, or choose pseudo, or kl or distill with "
                "`on unlabelled`"
            )
        if not self.original and self.retention.drops:
            raise InputError(
                "--max-drop needs data of the original task: give --original. For a language model a text file like "
                "its training data will do, or texts that it wrote: fft generate MODEL --prompt '' --temperature 1 "
                "--n 200 --out own.jsonl"
            )
        if self.computation.base_dtype != PRECISE.base_dtype and self.method.tree is BASE_TREE:
            raise InputError(
                f"--base-dtype {self.computation.base_dtype} rounds the frozen base of an adapter, and "
                f"{self.method.label} trains the base's own weights: leave it out, or use an adapter such as lora"
            )
        self._check_heads()
        self._check_originals()

    def _check_heads(self) -> None:
        """Reject head names that would have no effect. Raises: InputError."""
        if self.head == "shared" and self.new.name is not None:
            raise InputError(
                f"--new.name {self.new.name} names a new head, and --head shared creates none: leave out one of them"
            )
        if self.original:
            return
        if "fit" in self.original_head:
            raise InputError("--original-head fit needs original data to train a head on: give --original")
        if self.original_head and self.head == "new" and "head" not in self.method.needs:
            raise InputError(
                f"--original-head {self.original_head[0]} is unused: give --original, or a method that uses the base's "
                "head (such as kl or lwf), or leave it out"
            )

    def _check_originals(self) -> None:
        """Reject duplicate or incompatible original tasks, and settings whose number differs from theirs.

        Raises: InputError.
        """
        if source := repeated(self.original):
            raise InputError(f"--original names {source} twice with the same columns: leave one of them out")
        kinds = {data.kind: data.source for data in self.original if data.kind is not None}
        scored = {KINDS[kind].scored for kind in kinds}
        if len(self.original) > 1 and (len(scored) > 1 or "regression" in scored):
            odd = max(kinds, key=lambda kind: kind == "regression")
            raise InputError(
                f"several original tasks must all be classification, all be text, completions or chat, or all be "
                f"answers, and {kinds[odd]} is {odd}: the losses have no common unit. Give it a run of its own"
            )
        for_each("original-head", self.original_head, max(1, len(self.original)), "original task", None)
        for_each("max-drop", self.retention.drops, max(1, len(self.original)), "original task", None)

    @property
    def original_heads(self) -> tuple[str | None, ...]:
        """The requested head of each original task; None for the checkpoint's."""
        return for_each("original-head", self.original_head, len(self.original), "original task", None)

    @property
    def budgets(self) -> tuple[str, ...]:
        """The accepted drop of each original task under the contract; empty without a contract."""
        drops = for_each("max-drop", self.retention.drops, len(self.original), "original task", None)
        return tuple(drop for drop in drops if drop is not None)

    @property
    def sources(self) -> dict[str, Data | Texts]:
        """The data by task name: "new", "original", "original_2", …, "unlabelled"."""
        originals = zip(numbered(ORIGINAL, len(self.original)), self.original, strict=True)
        return {"new": self.new, **dict(originals)} | ({"unlabelled": self.unlabelled} if self.unlabelled else {})

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as JSON data, from which `from_json` makes an equal experiment.

        One original task is an object, several are a list; likewise their heads and budgets.
        """
        plain = recorded(self)
        return plain | {
            "original": alone(plain["original"]),
            "original_head": alone(self.original_head),
            "retention": plain["retention"] | {"max_drop": alone(self.retention.drops)},
            "method": method_to_json(self.method),
        }


def from_json(data: Any, where: str = "experiment") -> Experiment:
    """Return the experiment of JSON data.

    Raises: InputError with the path of an unknown name, a wrong type or a value out of range.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(data).__name__}")
    names = {f.name for f in dataclasses.fields(Experiment)}
    if unknown := sorted(set(data) - names):
        raise InputError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}")
    if missing := sorted({"model", "new"} - set(data)):
        raise InputError(f"{where}: {', '.join(missing)} is missing")
    types = {"new": Data, "unlabelled": Texts | None}
    types |= {"optim": Optim, "retention": Retention, "computation": Computation}
    parts = {name: validated(kind, data[name], f"{where}.{name}") for name, kind in types.items() if name in data}
    parts["original"] = tuple(validated(Data, task, f"{where}.original") for task in listed(data.get("original")))
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
    """Return an experiment's JSON data with defaults for missing settings, which are newer than the data.

    Data that cannot be read are returned unchanged.
    """
    try:
        return from_json(data).to_json()
    except InputError:
        return data


def with_defaults(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a run with its experiment `completed`."""
    return record | {"experiment": completed(record["experiment"])}


def load(path: str | Path) -> Experiment:
    """Load the experiment in a JSON file, such as a run's experiment.json.

    Raises: InputError for a file that cannot be read, or does not hold an experiment.
    """
    path = Path(local(path, "--config"))
    try:
        data = parsed_file(path)
    except OSError as error:
        raise InputError(f"cannot read the experiment {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    return from_json(data, where=path.name)
