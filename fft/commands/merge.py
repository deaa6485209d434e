"""`fft merge`: one checkpoint out of a base and several that were tuned from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fft.core.naming import counted
from fft.core.settings import TELLS_DEFAULT
from fft.disk.local import CHECKPOINT, CheckpointPath
from fft.experiment import NO_DATA, Data
from fft.merging.recipes import Settings


@dataclass(frozen=True)
class Flags:
    """Merge checkpoints that were tuned from one base into one, by a formula: no training, and no data but --task.

    What comes out is a checkpoint, with merge.json, which says what went in. Whether it is any good is for `fft check`
    to say; `fft repair` searches for a good merge of two models.
    """

    base: Annotated[tyro.conf.Positional[CheckpointPath], tyro.conf.arg(metavar="BASE")]
    """the checkpoint that the others were tuned from: a Hugging Face folder, a finished run, or hf:NAME"""
    tuned: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="TUNED [TUNED ...]", help_behavior_hint=""),
        CHECKPOINT,
    ]
    """the checkpoints that were tuned from it"""
    how: Literal["interpolate", "soup", "arithmetic", "ties", "dare", "fisher"]
    """the formula, see docs/merge.md"""
    out: Path
    """the checkpoint's folder; it must not exist yet, or be empty"""
    settings: tyro.conf.OmitArgPrefixes[Settings] = field(default_factory=Settings)
    task: Data = NO_DATA
    heads: Literal["shared", "apart"] = "shared"
    """heads of TUNED models with one name and the same labels: one head, merged like all else, or one for each"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head that becomes the classifier, by its name in the merged model (default: that of the first TUNED)"""
    max_length: Annotated[int | None, TELLS_DEFAULT] = None
    """tokens of a text that the merged model reads (default: as the models were trained, where that is known)"""
    json: bool = False
    """print the result as one JSON object on standard output, everything else on standard error"""


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
    from fft.after.merge import Request, merge
    from fft.models.heads import with_heads

    task = flags.task if flags.task.source else None
    request = Request(
        *(flags.base, flags.tuned, flags.how, flags.settings, flags.heads, flags.head, task, flags.max_length)
    )
    found = merge(request, flags.out)
    for note in found["notes"]:
        console.out(f"note: {note}", highlight=False)
    if task:
        console.out(greedy_sentence(found), highlight=False)
    for tuned in found["tuned"]:
        for own, name in tuned["heads"].items():
            if own != name:
                console.out(f"the head {own} of {tuned['folder']} is called {name}", highlight=False)
    console.out(f"wrote {flags.out} with {with_heads(found['primary'], found['heads'])}", highlight=False)
    return found, 0
