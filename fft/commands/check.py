"""`fft check`: test whether a tuned checkpoint is still as good as its base on the original task."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from fft.after.settings import CheckSettings
from fft.core.settings import TELLS_DEFAULT, AsJson


@dataclass(frozen=True, kw_only=True)
class Flags(CheckSettings):
    """Score two checkpoints on the same examples, and report whether the tuned one is as good as the base.

    Both must have the same architecture and shape; how they were tuned does not matter. The exit code is 0 if every
    original score drops by at most --max-drop, 1 if one drops by more, 4 if there are too few examples to decide. A
    source with one split is scored on all rows, others on the split `test`. Each --original setting has one value for
    all sources, or one per source.
    """

    out: Annotated[Path | None, TELLS_DEFAULT] = None
    """folder for check.html, check.json and examples.jsonl (default: only print)"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Score both checkpoints, print the verdict, and write the files of --out."""
    from fft.after.check import check
    from fft.disk.folder import refuse_taken
    from fft.report import checked

    if flags.out is not None:
        refuse_taken(flags.out, checked.FILES)
    result = check(flags)
    checked.show(result.record, console)
    if flags.out is not None:
        for path in checked.write(result.record, result.examples, flags.out):
            console.out(f"wrote {path}", highlight=False)
    return result.record, result.exit_code
