"""`fft merge`: one checkpoint out of a base and several that were tuned from it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fft.after.settings import MergeSettings
from fft.core.naming import counted
from fft.core.settings import AsJson


@dataclass(frozen=True, kw_only=True)
class Flags(MergeSettings):
    """Merge checkpoints that were tuned from one base into one, by a formula: no training, and no data but --task.

    What comes out is a checkpoint, with merge.json, which says what went in. Whether it is any good is for `fft check`
    to say; `fft repair` searches for a good merge of two models.
    """

    out: Path
    """the checkpoint's folder; it must not exist yet, or be empty"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def greedy_sentence(found: dict) -> str:
    """What the greedy soup of merge.json is of, with the scores that chose it; one model is no soup."""
    greedy = found["greedy"]
    folders = [tuned["folder"] for tuned in found["tuned"]]
    alone = ", ".join(f"{folder} {value:.4f}" for folder, value in zip(folders, greedy["scores"], strict=True))
    on = f"{greedy['metric']} on {counted(greedy['rows']['rows'], 'validation row')}"
    chosen = ", ".join(folders[at] for at in greedy["chosen"])
    if len(greedy["chosen"]) == 1:
        return f"no soup: {chosen} alone is what is written, no average with another model is as good; {on}: {alone}"
    return f"the greedy soup is of {chosen}: {greedy['soup']:.4f}; {on}, each alone: {alone}"


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Merge and say where the result is and which heads it has."""
    from fft.after.merge import merge
    from fft.models.heads import with_heads

    found = merge(flags, flags.out)
    for note in found["notes"]:
        console.out(f"note: {note}", highlight=False)
    if flags.task.source:
        console.out(greedy_sentence(found), highlight=False)
    for tuned in found["tuned"]:
        for own, name in tuned["heads"].items():
            if own != name:
                console.out(f"the head {own} of {tuned['folder']} is called {name}", highlight=False)
    console.out(f"wrote {flags.out} with {with_heads(found['primary'], found['heads'])}", highlight=False)
    return found, 0
