"""`fft diagnose`: which layers forgot the original task, and whether it is gone or only the head misaligned."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from fft.core.naming import counted
from fft.core.progress import doing
from fft.core.settings import TELLS_DEFAULT
from fft.disk.local import CheckpointPath
from fft.experiment import Data, Experiment


@dataclass(frozen=True)
class Flags:
    """Say which layers of a tuned checkpoint forgot the original task, and whether it is gone or the head misaligned.

    Layer by layer the tuned model gets the base's weights back, and the base gets the tuned ones; what that does to
    the original score is measured on the test rows, beside what the Fisher information of the base predicts. A head is
    fitted anew to the frozen features of both. Nothing else is trained. The exit code is 0 whatever was found.
    """

    base: Annotated[tyro.conf.Positional[CheckpointPath], tyro.conf.arg(metavar="BASE")]
    """the checkpoint before: a Hugging Face folder, a finished run, or hf:NAME"""
    tuned: Annotated[tyro.conf.Positional[CheckpointPath], tyro.conf.arg(metavar="TUNED")]
    """the checkpoint that was tuned from it"""
    original: Data
    out: Path
    """the folder to write: report.html, layers.svg, layers.png, diagnose.json; it must not exist yet, or be empty"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the original task's head in both (default: the base's classifier)"""
    tuned_head: Annotated[str | None, TELLS_DEFAULT] = None
    """the original task's head in TUNED (default: the one named as in BASE, else its classifier)"""
    fisher: Annotated[Path | None, TELLS_DEFAULT] = None
    """what `fft fisher` wrote at BASE on the original task (default: a pass of its own)"""
    fisher_rows: int = 512
    """original training rows that the pass of its own reads, at most"""
    fit_rows: int = 4096
    """original training rows that heads are fitted to, at most"""
    rows: int = 2048
    """original test rows that every model is scored on, at most, chosen by the seed"""
    metric: Annotated[str | None, TELLS_DEFAULT] = None
    """the score (default: accuracy, or pearson for regression)"""
    max_length: Annotated[int | None, TELLS_DEFAULT] = Experiment.max_length
    """tokens of a text; longer ones are cut and counted (default: as in its training, else 128 or what it takes)"""
    seed: int = 0
    """seeds the choice of rows and the draws of the Fisher pass"""
    json: bool = False
    """print the result as one JSON object on standard output, everything else on standard error"""


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Diagnose, print."""
    from fft.after.diagnose import Request, diagnose
    from fft.report.diagnosed import page

    original = replace(flags.original, metric=flags.metric or flags.original.metric)
    request = Request(
        *(flags.base, flags.tuned, original, flags.head, flags.tuned_head),
        *(flags.fisher, flags.fisher_rows, flags.fit_rows, flags.rows, flags.max_length, flags.seed),
    )
    with doing("scoring models") as work:
        found = diagnose(
            request,
            flags.out,
            lambda text: console.out(text, highlight=False),
            lambda count: work.update(description=f"{counted(count, 'model')} scored"),
        )
    page.show(found.record, console)
    console.out(f"report: {flags.out}/report.html", highlight=False)
    return found.record, 0
