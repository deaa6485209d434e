"""`fft merge`: merge checkpoints tuned from one base into one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fft.after.settings import MergeSettings
from fft.core.naming import counted
from fft.core.settings import AsJson


@dataclass(frozen=True, kw_only=True)
class Flags(MergeSettings):
    """Merge checkpoints tuned from one base into one by a formula, without training; the only data are those of --task.

    The output is a checkpoint with merge.json, which records the inputs. Test the result with `fft check`; use
    `fft repair` to search for a good merge of a base and a tuned model.
    """

    out: Path
    """folder of the merged checkpoint; it must be new or empty"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args)


def greedy_sentence(record: dict) -> str:
    """Return a sentence on the members of the greedy soup in merge.json and the scores that selected them."""
    greedy = record["greedy"]
    folders = [tuned["folder"] for tuned in record["tuned"]]
    alone = ", ".join(f"{folder} {value:.4f}" for folder, value in zip(folders, greedy["scores"], strict=True))
    on = f"{greedy['metric']} on {counted(greedy['rows']['rows'], 'validation row')}"
    chosen = ", ".join(folders[at] for at in greedy["chosen"])
    if len(greedy["chosen"]) == 1:
        return f"no soup: {chosen} is written alone, as every average with another model is worse; {on}: {alone}"
    return f"the greedy soup averages {chosen}: {greedy['soup']:.4f}; {on}, each alone: {alone}"


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Merge the checkpoints, and print the folder and the heads of the result."""
    from fft.after.merge import merge
    from fft.models.heads import with_heads

    record = merge(flags, flags.out)
    for note in record["notes"]:
        console.out(f"note: {note}", highlight=False)
    if flags.task.source:
        console.out(greedy_sentence(record), highlight=False)
    for tuned in record["tuned"]:
        for own, name in tuned["heads"].items():
            if own != name:
                console.out(f"the head {own} of {tuned['folder']} is called {name}", highlight=False)
    console.out(f"wrote {flags.out} with {with_heads(record['primary'], record['heads'])}", highlight=False)
    return record, 0
