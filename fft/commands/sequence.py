"""`fft sequence`: learn several tasks in turn, and report how each affects the others."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fft.commands.tune import Settings, method_of
from fft.core.bounds import Seed, Share
from fft.core.computation import PRECISE, Computation
from fft.core.settings import TELLS_DEFAULT, AsJson
from fft.data.settings import NO_TEXTS, MetricName, Texts, scored_by
from fft.data.several import HEADS, NO_SOURCES, SeveralData
from fft.disk.local import CheckpointPath
from fft.experiment import Experiment, Optim, Retention, TrainedLength
from fft.run.auto import AUTO, choose


@dataclass(frozen=True)
class Flags:
    """Learn several tasks in turn, each from the model of the previous stage, while preserving all earlier tasks.

    Repeat a call with the same --out to resume it. The exit code is 0 if every stage keeps all earlier tasks within the
    accepted drop, 1 if one does not, 4 if there are too few test rows to decide.
    """

    out: Path
    """folder of the sequence: stage-1, stage-2, …, sequence.json, sequence.html, matrix.svg"""
    model: CheckpointPath
    """a folder with a Hugging Face checkpoint (safetensors), a GGUF file, hf:NAME or demo:smollm2"""
    tasks: SeveralData
    original: SeveralData = NO_SOURCES
    unlabelled: Texts = NO_TEXTS
    metric: MetricName = None
    method: str = AUTO
    """methods joined by +, as in lora+ewc; auto chooses as for a run with original data"""
    gamma: Annotated[Share | None, TELLS_DEFAULT] = None
    """online EWC: accumulate the Fisher information of earlier tasks, decayed by this factor per stage (default:
    estimate it at every stage on rows of all earlier tasks)"""
    head: Literal["new", "shared"] = Experiment.head
    """a new head for each task, or one shared by all: that of the (first) original task, else the first task's"""
    original_head: Annotated[tuple[str, ...] | None, HEADS] = ()
    """head of the original task, as in fft tune (default: the checkpoint's)"""
    max_length: TrainedLength = None
    seed: Seed = Experiment.seed
    """random seed of the data order, dropout, new parameters and sampling of every stage"""
    json: AsJson = False
    optim: tyro.conf.OmitArgPrefixes[Optim] = field(default_factory=Optim)
    retention: tyro.conf.OmitArgPrefixes[Retention] = field(default_factory=Retention)
    computation: tyro.conf.OmitArgPrefixes[Computation] = PRECISE
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args, default=Flags(tyro.MISSING, tyro.MISSING, SeveralData(tyro.MISSING)))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Run the stages, score every model on every task, print and write the result."""
    from fft.report.console import Display
    from fft.report.sequenced import show
    from fft.run.sequence import run_sequence
    from fft.run.settings import SequenceSettings

    choice = choose(original=True, unlabelled=False, head=True) if flags.method == AUTO else None
    if choice:
        console.out(choice, highlight=False)
    settings = {f.name: getattr(flags.settings, f.name) for f in dataclasses.fields(flags.settings)}
    originals = flags.original.each("original")
    tasks = scored_by(flags.metric, [*originals, *flags.tasks.each("tasks")])
    same = ("model", "optim", "retention", "head", "original_head", "max_length", "seed", "gamma", "computation")
    request = SequenceSettings(
        tasks=tasks[len(originals) :],
        original=tasks[: len(originals)],
        method=method_of(flags.method, settings, choice),
        unlabelled=flags.unlabelled if flags.unlabelled.source else None,
        **{name: getattr(flags, name) for name in same},
    )
    result = run_sequence(request, flags.out, lambda title: Display(console, title))
    show(result.record, console)
    console.out(f"report: {flags.out}/sequence.html", highlight=False)
    return result.record, result.exit_code
