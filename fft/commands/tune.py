"""`fft tune`: fine-tune a checkpoint on a new task and measure what the original task loses."""

import dataclasses
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from fft.core.bounds import Seed
from fft.core.computation import PRECISE, Computation
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, AsJson, listed
from fft.data.settings import NO_DATA, NO_TEXTS, Data, MetricName, Texts, predicts_tokens, scored_by
from fft.data.several import HEADS, NO_SOURCES, SeveralData
from fft.disk.local import LOCAL, CheckpointPath
from fft.experiment import Experiment, Optim, Retention, TrainedLength, load
from fft.methods import METHODS, Method, parse_chain
from fft.run.auto import AUTO, Choice, choose_for

if TYPE_CHECKING:

    @dataclass(frozen=True)
    class Settings:
        """The settings of every method that has any, by method name."""

else:
    Settings = dataclasses.make_dataclass(
        "Settings",
        [
            (name, Annotated[kind, tyro.conf.arg(help=inspect.getdoc(kind))], field(default_factory=kind))
            for name, kind in METHODS.items()
            if dataclasses.fields(kind)
        ],
        frozen=True,
    )


@dataclass(frozen=True)
class Flags:
    """Fine-tune a checkpoint on a new task, monitor the original tasks, and report what was forgotten.

    Repeat a call with the same --out to resume it. The exit code is 0 if every original task stays within the accepted
    drop, 1 if one does not, 4 if there are too few test rows to decide. Each --original setting has one value for all
    sources, or one per source.
    """

    out: Path
    """run folder; a second call with the same flags resumes the run"""
    model: CheckpointPath = ""
    """a folder with a Hugging Face checkpoint (safetensors), a GGUF file, hf:NAME or demo:smollm2"""
    new: Data = NO_DATA
    original: SeveralData = NO_SOURCES
    unlabelled: Texts = NO_TEXTS
    metric: MetricName = None
    method: str = AUTO
    """methods joined by +, as in lora+ewc; auto chooses by the available data of the original task and prints why"""
    fisher: Annotated[str | None, TELLS_DEFAULT, LOCAL] = None
    """folder written by `fft fisher`, which ewc and sparse use instead of estimating it (same as --ewc.fisher)"""
    head: Literal["new", "shared"] = Experiment.head
    """head of the new task: a new one, or the head of the (first) original task, if the labels are the same"""
    original_head: Annotated[tuple[str, ...] | None, HEADS] = ()
    """head of the original task: a name, or `fit` to train one on the frozen base; one for all original tasks or one
    per task (default: the checkpoint's)"""
    max_length: TrainedLength = None
    seed: Seed = Experiment.seed
    """random seed of the data order, dropout, new parameters and sampling"""
    config: Path | None = None
    """an experiment.json to start from; other flags override it"""
    tensorboard: bool = False
    """also write scores and losses to OUT/tensorboard (needs the extra `tensorboard`)"""
    json: AsJson = False
    optim: tyro.conf.OmitArgPrefixes[Optim] = field(default_factory=Optim)
    retention: tyro.conf.OmitArgPrefixes[Retention] = field(default_factory=Retention)
    computation: tyro.conf.OmitArgPrefixes[Computation] = PRECISE
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)

    @cached_property
    def choice(self) -> Choice | None:
        """The choice of `--method auto`; None if the methods are named."""
        if self.method != AUTO:
            return None
        tasks = [task for task in (self.new, *self.original.each("original")) if task.source]
        return choose_for(self.model, len(tasks) > 1, bool(self.unlabelled.source), predicts_tokens(tasks))

    def experiment(self) -> Experiment:
        """Return the experiment that these flags describe. Raises: InputError if --model or --new is missing."""
        if not self.model:
            raise InputError("--model is missing: give a folder with a Hugging Face checkpoint, or hf:NAME")
        if not self.new.source:
            raise InputError("--new is missing: give the new task's data, such as new.csv")
        new, *originals = scored_by(self.metric, [self.new, *self.original.each("original")])
        return Experiment(
            self.model,
            new,
            tuple(originals),
            self.chain(),
            self.optim,
            self.retention,
            self.head,
            listed(self.original_head),
            self.max_length,
            self.seed,
            self.unlabelled if self.unlabelled.source else None,
            self.computation,
        )

    def chain(self) -> Method:
        """Return the method with its settings.

        Raises: InputError for settings, or a --fisher, that no method of the chain uses.
        """
        settings = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(self.settings)}
        if self.fisher is not None:
            readers = [name for name in self.method.split("+") if hasattr(settings.get(name), "fisher")]
            if not readers:
                raise InputError(f"--fisher is unused by --method {self.method}: leave it out, or add ewc or sparse")
            for name in readers:
                if settings[name].fisher not in (None, self.fisher):
                    other = f"--{name}.fisher {settings[name].fisher}"
                    raise InputError(f"--fisher {self.fisher} and {other} differ: give one of them")
                settings[name] = dataclasses.replace(settings[name], fisher=self.fisher)
        return method_of(self.method, settings, self.choice)


def method_of(names: str, settings: dict[str, Method], choice: Choice | None) -> Method:
    """Return the methods `names`, or those that auto chose, with their settings.

    Raises: InputError for settings of other methods.
    """
    if not choice:
        return parse_chain(names, settings)
    chosen = settings[choice.method]
    for name, method in settings.items():
        if method not in (chosen, METHODS[name]()):
            raise InputError(
                f"a setting of {name} is unused: --method auto chose {choice.method}. Name the methods, or leave out "
                "the setting"
            )
    return choice.chain(chosen)


def flags_of(experiment: Experiment, out: Path) -> Flags:
    """Return the flags that describe an experiment."""
    same = ("model", "new", "optim", "retention", "head", "original_head", "max_length", "seed", "computation")
    members = {m.name: m for m in experiment.method.members if dataclasses.fields(m)}
    return Flags(
        out,
        **{name: getattr(experiment, name) for name in same},
        original=SeveralData.of(*experiment.original),
        unlabelled=experiment.unlabelled or NO_TEXTS,
        method=experiment.method.label,
        settings=dataclasses.replace(Settings(), **members),
    )


@dataclass(frozen=True)
class _Start:
    config: Path | None = None
    method: str | None = None


def _flags_to_start_from(config: Path, method: str | None) -> Flags:
    """Return the flags of an experiment file; another `method` has its own defaults, including the learning rate."""
    experiment = load(config)
    flags = flags_of(experiment, Path())
    if method in (None, experiment.method.label):
        return flags
    return dataclasses.replace(flags, settings=Settings(), optim=dataclasses.replace(flags.optim, lr=None))


def parse(args: list[str], cli: Callable[..., Any]) -> Flags:
    """Parse the flags, with those of --config as defaults. Only the help marks --model and --new as required."""
    if "--help" in args or "-h" in args:
        return cli(Flags, args=args, default=Flags(tyro.MISSING, tyro.MISSING, Data(tyro.MISSING)))
    start: _Start = cli(_Start, args=args, return_unknown_args=True)[0]
    if start.config is None:
        return cli(Flags, args=args)
    configured = _flags_to_start_from(start.config, start.method)
    return cli(Flags, args=args, default=dataclasses.replace(configured, out=tyro.MISSING))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Run the experiment, print the scores before and after, and the verdict."""
    from fft.disk.folder import ADAPTER, MODEL
    from fft.report.console import Board, Display, tee
    from fft.report.tables import before_after
    from fft.report.verdict import HEADLINES, sentence
    from fft.run.run import run

    experiment = flags.experiment()
    if choice := flags.choice:
        console.out(choice, highlight=False)
    board = Board(flags.out / "tensorboard") if flags.tensorboard else None
    with Display(console) as display, board or nullcontext():
        finished = run(experiment, flags.out, tee(display.show, board.show) if board else display.show)
    console.print(before_after([finished.record]))
    console.out(sentence(finished.record) or HEADLINES[None], highlight=False)
    saved = [f"{name}: {flags.out}/{name}" for name in (MODEL, ADAPTER) if (flags.out / name).is_dir()]
    console.out("   ".join([*saved[:1], f"report: {flags.out}/report.html"]), highlight=False)
    return finished.record, finished.exit_code
