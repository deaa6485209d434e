"""`fft tune`: fine-tune a checkpoint on a new task and watch the original one."""

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
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, AsJson, listed
from fft.data.settings import NO_DATA, NO_TEXTS, Data, MetricName, Texts, scored_by
from fft.data.several import HEADS, NO_SOURCES, SeveralData
from fft.disk.local import LOCAL, CheckpointPath
from fft.experiment import Experiment, Optim, Retention, TrainedLength, load
from fft.methods import METHODS, Method, parse_chain
from fft.run.auto import AUTO, Choice, choose_for

if TYPE_CHECKING:

    @dataclass(frozen=True)
    class Settings:
        """The settings of every method that has some, by its name."""

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
    """Fine-tune a checkpoint on a new task, watch the original tasks beside it, and say what was forgotten.

    A second call with the same --out goes on where the first one stopped. The exit code is 0 when every original task
    was kept within the tolerance, 1 when one was not, 4 when the test rows are too few to tell. Each --original setting
    is one for all of its sources, or one a source.
    """

    out: Path
    """the run folder; a second call with the same flags resumes it"""
    model: CheckpointPath = ""
    """a folder with a Hugging Face checkpoint (safetensors), or hf:NAME"""
    new: Data = NO_DATA
    original: SeveralData = NO_SOURCES
    unlabelled: Texts = NO_TEXTS
    metric: MetricName = None
    method: str = AUTO
    """methods joined by +, as in lora+ewc; auto chooses by what there is of the original task, and says why"""
    fisher: Annotated[str | None, TELLS_DEFAULT, LOCAL] = None
    """what `fft fisher` wrote: ewc and sparse read it in place of a pass of their own (the same as --ewc.fisher)"""
    head: Literal["new", "shared"] = Experiment.head
    """the new task's head: a fresh one, or the (first) original's where the labels are the same"""
    original_head: Annotated[tuple[str, ...] | None, HEADS] = ()
    """the original task's head: a name, or `fit` to train one on the frozen base; one for all original tasks, or one
    each (default: the checkpoint's)"""
    max_length: TrainedLength = None
    seed: Seed = Experiment.seed
    """seeds the data order, dropout, fresh parameters and draws"""
    config: Path | None = None
    """an experiment.json to start from; flags given beside it override it"""
    tensorboard: bool = False
    """also write the scores and losses to OUT/tensorboard (needs the extra `tensorboard`)"""
    json: AsJson = False
    optim: tyro.conf.OmitArgPrefixes[Optim] = field(default_factory=Optim)
    retention: tyro.conf.OmitArgPrefixes[Retention] = field(default_factory=Retention)
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)

    @cached_property
    def choice(self) -> Choice | None:
        """What `--method auto` comes to; None for methods that were named."""
        if self.method != AUTO:
            return None
        return choose_for(self.model, bool(self.original.source), bool(self.unlabelled.source))

    def experiment(self) -> Experiment:
        """The experiment these flags describe."""
        if not self.model:
            raise InputError("--model is missing: a folder with a Hugging Face checkpoint, or hf:NAME")
        if not self.new.source:
            raise InputError("--new is missing: the new task's data, such as new.csv")
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
        )

    def chain(self) -> Method:
        """The method with its settings; InputError for settings and a --fisher that no member reads."""
        settings = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(self.settings)}
        if self.fisher is not None:
            readers = [name for name in self.method.split("+") if hasattr(settings.get(name), "fisher")]
            if not readers:
                raise InputError(f"--fisher is read by ewc and sparse, neither of which is in --method {self.method}")
            for name in readers:
                if settings[name].fisher not in (None, self.fisher):
                    other = f"--{name}.fisher {settings[name].fisher}"
                    raise InputError(f"--fisher {self.fisher} and {other} differ; give one")
                settings[name] = dataclasses.replace(settings[name], fisher=self.fisher)
        return method_of(self.method, settings, self.choice)


def method_of(names: str, settings: dict[str, Method], choice: Choice | None) -> Method:
    """The method that `names` says, or that auto came to, with its settings; InputError for settings of others."""
    if not choice:
        return parse_chain(names, settings)
    chosen = settings[choice.method]
    for name, method in settings.items():
        if method not in (chosen, METHODS[name]()):
            raise InputError(
                f"a setting of {name} is given, but --method auto, which is {choice.method} here, does not name "
                f"{name}: name the methods"
            )
    return choice.chain(chosen)


def flags_of(experiment: Experiment, out: Path) -> Flags:
    """The flags that describe an experiment."""
    same = ("model", "new", "optim", "retention", "head", "original_head", "max_length", "seed")
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
    """The flags of an experiment file; another --method starts from its own defaults, learning rate included."""
    experiment = load(config)
    flags = flags_of(experiment, Path())
    if method in (None, experiment.method.label):
        return flags
    return dataclasses.replace(flags, settings=Settings(), optim=dataclasses.replace(flags.optim, lr=None))


def parse(args: list[str], cli: Callable[..., Any]) -> Flags:
    """The flags; those of --config are the defaults of the others: only the help calls --model and --new required."""
    if "--help" in args or "-h" in args:
        return cli(Flags, args=args, default=Flags(tyro.MISSING, tyro.MISSING, Data(tyro.MISSING)))
    start: _Start = cli(_Start, args=args, return_unknown_args=True)[0]
    if start.config is None:
        return cli(Flags, args=args)
    begun = _flags_to_start_from(start.config, start.method)
    return cli(Flags, args=args, default=dataclasses.replace(begun, out=tyro.MISSING))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Run the experiment, print the table of before and after, and the verdict."""
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
    kept = next(name for name in (MODEL, ADAPTER) if (flags.out / name).is_dir())
    console.out(f"{kept}: {flags.out}/{kept}   report: {flags.out}/report.html", highlight=False)
    return finished.record, finished.exit_code
