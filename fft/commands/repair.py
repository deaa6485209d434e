"""`fft repair`: win back what a tuned checkpoint lost, by merging it with its base; no training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fft.core.progress import doing
from fft.core.settings import TELLS_DEFAULT
from fft.disk.local import CheckpointPath
from fft.experiment import Data, Experiment, Retention
from fft.stats.budget import Budget


@dataclass(frozen=True)
class Flags:
    """Merge a tuned checkpoint with its base so that the original task is kept and the new one is as good as it can be.

    Merged models are scored on the validation rows of both tasks; the best new score within --max-drop is chosen and
    confirmed once on the test rows. The exit code is 0 when the original task is kept, 1 when it is not or nothing
    better than the base was found, 4 when the test rows are too few to tell.
    """

    base: Annotated[tyro.conf.Positional[CheckpointPath], tyro.conf.arg(metavar="BASE")]
    """the checkpoint before: a Hugging Face folder, a finished run, or hf:NAME"""
    tuned: Annotated[tyro.conf.Positional[CheckpointPath], tyro.conf.arg(metavar="TUNED")]
    """the checkpoint that was tuned from it"""
    original: Data
    new: Data
    out: Path
    """the folder to write: model/, report.html, repair.json; it must not exist yet, or be empty"""
    max_drop: str = f"{Retention.tolerance:g}"
    """the drop that is accepted: in units of the score (0.01), or as a share of the base's score (1%)"""
    also: tuple[Literal["layers", "ties", "dare"], ...] = ("layers",)
    """what is tried beside one α for all layers: an α by layer, TIES, DARE; none: `--also` alone"""
    sweeps: int = 1
    """how often the search for an α by layer goes through the layers"""
    rows: int = 1024
    """validation rows of each task that candidates are scored on, at most"""
    fisher: Annotated[Path | None, TELLS_DEFAULT] = None
    """what `fft fisher` wrote at BASE on the original task: merging weighted by it is tried too"""
    new_fisher: Annotated[Path | None, TELLS_DEFAULT] = None
    """what `fft fisher` wrote at TUNED on the new task (default: the same weight for every parameter)"""
    metric: Annotated[str | None, TELLS_DEFAULT] = None
    """the score of both tasks, where it fits (default: accuracy, or pearson for regression)"""
    original_head: Annotated[str | None, TELLS_DEFAULT] = None
    """the original task's head in BASE (default: its classifier)"""
    new_head: Annotated[str | None, TELLS_DEFAULT] = None
    """the new task's head in TUNED (default: its classifier)"""
    max_length: Annotated[int | None, TELLS_DEFAULT] = Experiment.max_length
    """tokens of a text; longer ones are cut and counted (default: as in its training, else 128 or what it takes)"""
    seed: int = 0
    """seeds what DARE drops"""
    json: bool = False
    """print the result as one JSON object on standard output, everything else on standard error"""


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Search, confirm, print."""
    from fft.after.repair import Request, repair
    from fft.commands.tune import with_metric
    from fft.report import repaired

    original, new = (with_metric(data, flags.metric) for data in (flags.original, flags.new))
    request = Request(
        *(flags.base, flags.tuned, original, new, Budget.parse(flags.max_drop)),
        *(flags.original_head, flags.new_head, flags.also, flags.sweeps, flags.rows, flags.fisher, flags.new_fisher),
        *(flags.max_length, flags.seed),
    )
    with doing("scoring candidates") as work:
        found = repair(
            request,
            flags.out,
            lambda text: console.out(text, highlight=False),
            lambda tried, count: work.update(description=f"{count} tried, {repaired.described(tried._asdict())}"),
        )
    repaired.show(found.record, console)
    model = f"model: {flags.out}/model   " if found.record["chosen"] is not None else ""
    console.out(f"{model}report: {flags.out}/report.html", highlight=False)
    return found.record, found.exit_code
