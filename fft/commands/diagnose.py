"""`fft diagnose`: which layers forgot the original task, and whether it is gone or only the head misaligned."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fft.after.settings import DiagnoseSettings
from fft.core.naming import counted
from fft.core.progress import doing
from fft.core.settings import AsJson


@dataclass(frozen=True, kw_only=True)
class Flags(DiagnoseSettings):
    """Say which layers of a tuned checkpoint forgot the original task, and whether it is gone or the head misaligned.

    Layer by layer the tuned model gets the base's weights back, and the base gets the tuned ones; what that does to
    the original score is measured on the test rows, beside what the Fisher information of the base predicts. A head is
    fitted anew to the frozen features of both. Nothing else is trained. The exit code is 0 whatever was found.
    """

    out: Path
    """the folder to write: report.html, layers.svg, layers.png, diagnose.json; it must not exist yet, or be empty"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Diagnose, print."""
    from fft.after.diagnose import diagnose
    from fft.report.diagnosed import page

    with doing("scoring models") as work:
        found = diagnose(
            flags,
            flags.out,
            lambda text: console.out(text, highlight=False),
            lambda count: work.update(description=f"{counted(count, 'model')} scored"),
        )
    page.show(found.record, console)
    console.out(f"report: {flags.out}/report.html", highlight=False)
    return found.record, 0
