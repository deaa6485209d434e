"""`fft merge`: one checkpoint out of a base and several that were tuned from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fft.experiment import NO_DATA, Data
from fft.local import CHECKPOINT, CheckpointPath
from fft.merging.recipes import Settings
from fft.schema import TELLS_DEFAULT


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


def parse(args: list[str], cli: Callable) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Merge and say where the result is and which heads it has."""
    from fft.heads import with_heads
    from fft.pairs.merge import Request, merge

    task = flags.task if flags.task.source else None
    request = Request(
        *(flags.base, flags.tuned, flags.how, flags.settings, flags.heads, flags.head, task, flags.max_length)
    )
    found = merge(request, flags.out)
    for note in found["notes"]:
        console.out(f"note: {note}", highlight=False)
    if task:
        chosen = ", ".join(found["tuned"][at]["folder"] for at in found["greedy"]["chosen"])
        console.out(f"the greedy soup is of {chosen}", highlight=False)
    for tuned in found["tuned"]:
        for own, name in tuned["heads"].items():
            if own != name:
                console.out(f"the head {own} of {tuned['folder']} is called {name}", highlight=False)
    console.out(f"wrote {flags.out} with {with_heads(found['primary'], found['heads'])}", highlight=False)
    return found, 0
