"""`fft check`: whether a checkpoint still does what another one could."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from fft.after.settings import CheckSettings
from fft.core.settings import TELLS_DEFAULT, AsJson


@dataclass(frozen=True, kw_only=True)
class Flags(CheckSettings):
    """Score two checkpoints on the same examples, and say whether the second one kept what the first one could do.

    Both are of one family and shape; who tuned them, and how, does not matter. The exit code is 0 when the drop of
    every original score is within --max-drop, 1 when one is not, 4 when the examples are too few to tell. All rows of a
    source with one split are scored, else those of its split `test`. Each --original setting is one for all of its
    sources, or one a source.
    """

    out: Annotated[Path | None, TELLS_DEFAULT] = None
    """a folder for check.html, check.json and examples.jsonl (default: what is printed is all)"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Score, judge, print, and write what --out asks for."""
    from fft.after.check import check
    from fft.disk.folder import refuse_taken
    from fft.report import checked

    if flags.out is not None:
        refuse_taken(flags.out, checked.FILES)
    found = check(flags)
    checked.show(found.record, console)
    if flags.out is not None:
        for path in checked.write(found.record, found.examples, flags.out):
            console.out(f"wrote {path}", highlight=False)
    return found.record, found.exit_code
