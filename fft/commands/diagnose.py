"""`fft diagnose`: report which layers forgot the original task, and whether the features or only the head changed."""

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
    """Report which layers of a tuned checkpoint forgot the original task, and whether its features or its head lost it.

    For each layer, the tuned model is scored with the base's weights restored there, and the base with the tuned
    weights there. The effect on the original score is measured on the test rows, and compared with the prediction by
    the Fisher information of the base. A new head is fitted to the frozen features of both models; nothing else is
    trained. The exit code is 0 whatever the result.
    """

    out: Path
    """output folder for report.html, layers.svg, layers.png and diagnose.json; it must be new or empty"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Diagnose the checkpoint and print the result."""
    from fft.after.diagnose import diagnose
    from fft.report.diagnosed import page

    with doing("scoring models") as work:
        result = diagnose(
            flags,
            flags.out,
            lambda text: console.out(text, highlight=False),
            lambda count: work.update(description=f"{counted(count, 'model')} scored"),
        )
    page.show(result.record, console)
    console.out(f"report: {flags.out}/report.html", highlight=False)
    return result.record, 0
