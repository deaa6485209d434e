"""`fft check`: whether a checkpoint still does what another one could."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT
from fft.disk.local import CheckpointPath
from fft.experiment import NO_DATA, Data, Experiment, Retention
from fft.stats.budget import Budget


@dataclass(frozen=True)
class Flags:
    """Score two checkpoints on the same examples, and say whether the second one kept what the first one could do.

    Both are of one family and shape; who tuned them, and how, does not matter. The exit code is 0 when the drop of the
    original score is within --max-drop, 1 when it is not, 4 when the examples are too few to tell. All rows of a source
    with one split are scored, else those of its split `test`.
    """

    base: tyro.conf.Positional[CheckpointPath]
    """the checkpoint before: a Hugging Face folder, a finished run, or hf:NAME"""
    tuned: tyro.conf.Positional[CheckpointPath]
    """the checkpoint after"""
    original: Data
    new: Data = NO_DATA
    max_drop: str = f"{Retention.tolerance:g}"
    """the drop that is accepted: in units of the score (0.01), or as a share of the base's score (1%)"""
    metric: Annotated[str | None, TELLS_DEFAULT] = None
    """the score of both tasks, where it fits (default: accuracy, or pearson for regression)"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the original task's head in both, the same as --original.name (default: the base's classifier)"""
    tuned_head: Annotated[str | None, TELLS_DEFAULT] = None
    """the original task's head in TUNED (default: the one named as in BASE, else its classifier)"""
    held_out: bool = False
    """score only the rows that `fft tune` holds out for its test, a tenth of a source with one split"""
    max_length: Annotated[int | None, TELLS_DEFAULT] = Experiment.max_length
    """tokens of a text; longer ones are cut and counted (default: as in its training, else 128 or what it takes)"""
    out: Annotated[Path | None, TELLS_DEFAULT] = None
    """a folder for check.html, check.json and examples.jsonl (default: what is printed is all)"""
    json: bool = False
    """print the result as one JSON object on standard output, everything else on standard error"""


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Score, judge, print, and write what --out asks for."""
    from fft.after.check import Asked, Request, check
    from fft.commands.tune import with_metric
    from fft.disk.folder import refuse_taken
    from fft.report import checked

    budget = Budget.parse(flags.max_drop)
    original, new = (with_metric(data, flags.metric) for data in (flags.original, flags.new))
    if flags.head and original.name not in (None, flags.head):
        raise InputError(f"--head {flags.head} and --original.name {original.name} differ; give one")
    asked = Asked(original, flags.head or original.name, flags.tuned_head)
    request = Request(
        flags.base,
        flags.tuned,
        (asked,),
        budget,
        Asked(new, new.name) if new.source else None,
        flags.max_length,
        flags.held_out,
    )
    if flags.out is not None:
        refuse_taken(flags.out, checked.FILES)
    found = check(request)
    checked.show(found.record, console)
    if flags.out is not None:
        for path in checked.write(found.record, found.examples, flags.out):
            console.out(f"wrote {path}", highlight=False)
    return found.record, found.exit_code
