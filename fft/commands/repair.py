"""`fft repair`: win back what a tuned checkpoint lost, by merging it with its base; no training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fft.after.settings import RepairSettings
from fft.core.progress import doing
from fft.core.settings import AsJson


@dataclass(frozen=True, kw_only=True)
class Flags(RepairSettings):
    """Merge a tuned checkpoint with its base so that the original task is kept and the new one is as good as it can be.

    Merged models are scored on the validation rows of both tasks; the best new score within --max-drop is chosen and
    confirmed once on the test rows. The exit code is 0 when the original task is kept, 1 when it is not or nothing
    better than the base was found, 4 when the test rows are too few to tell.
    """

    out: Path
    """the folder to write: model/, report.html, repair.json; it must not exist yet, or be empty"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Search, confirm, print."""
    from fft.after.repair import repair
    from fft.report import repaired

    with doing("scoring candidates") as work:
        found = repair(
            flags,
            flags.out,
            lambda text: console.out(text, highlight=False),
            lambda tried, count: work.update(description=f"{count} tried, {repaired.described(tried._asdict())}"),
        )
    repaired.show(found.record, console)
    model = f"model: {flags.out}/model   " if found.record["chosen"] is not None else ""
    console.out(f"{model}report: {flags.out}/report.html", highlight=False)
    return found.record, found.exit_code
