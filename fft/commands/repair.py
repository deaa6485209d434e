"""`fft repair`: recover what a tuned checkpoint lost by merging it with its base, without training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fft.after.settings import RepairSettings
from fft.core.progress import doing
from fft.core.settings import AsJson


@dataclass(frozen=True, kw_only=True)
class Flags(RepairSettings):
    """Merge a tuned checkpoint with its base: the best new score whose original score drops by at most --max-drop.

    Merged models are scored on the validation rows of both tasks; the chosen one is confirmed once on the test rows.
    The exit code is 0 if the original task stays within --max-drop, 1 if it does not or no merge is better than the
    base, 4 if there are too few test rows to decide.
    """

    out: Path
    """output folder for model/, report.html and repair.json; it must be new or empty"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Search for the best merge, confirm it on the test rows, and print the result."""
    from fft.after.repair import repair
    from fft.report import repaired

    with doing("scoring candidates") as work:
        result = repair(
            flags,
            flags.out,
            lambda text: console.out(text, highlight=False),
            lambda candidate, count: work.update(
                description=f"{count} tried, {repaired.described(candidate._asdict())}"
            ),
        )
    repaired.show(result.record, console)
    model = f"model: {flags.out}/model   " if result.record["chosen"] is not None else ""
    console.out(f"{model}report: {flags.out}/report.html", highlight=False)
    return result.record, result.exit_code
