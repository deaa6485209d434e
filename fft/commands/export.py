"""`fft export`: write a run's model as a Hugging Face checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console

from fft.errors import InputError
from fft.schema import TELLS_DEFAULT


@dataclass(frozen=True)
class Flags:
    """Write the model of a run as a Hugging Face checkpoint: weights, config, tokenizer, label names."""

    run: Path
    """the run folder"""
    out: Path
    """the folder to write; it must not exist yet, or be an earlier export"""
    to: Literal["hf"] = "hf"
    """the format"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head to export as the classifier (default: the new task's)"""
    step: Annotated[Literal["best", "latest"] | None, TELLS_DEFAULT] = None
    """which step of the run (default: the one the run keeps, its setting `keep`)"""
    json: bool = False
    """print the result as one JSON object on standard output, everything else on standard error"""


def parse(args: list[str], cli: Callable) -> Flags:
    """The flags; the run folder may stand without its flag, as in `fft export RUN --to hf --out DIR`."""
    if args and not args[0].startswith("-"):
        args = ["--run", *args]
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Restore the step and write it."""
    from fft import models
    from fft.api import kept_base, restore

    restored = restore(flags.run, flags.step)
    head = flags.head or restored.primary
    if head not in restored.heads:
        raise InputError(f"{flags.run} has no head {head}; its heads are: {', '.join(restored.heads)}")
    folder = models.save(restored, flags.out, primary=head)
    if kept_base(flags.run, flags.step):
        console.out(f"warning: {flags.run} kept the base, step 0: this is not fine-tuned", highlight=False)
    console.out(f"wrote {folder} with the head {head} as its classifier", highlight=False)
    return {"folder": str(folder), "head": head, "heads": list(restored.heads)}, 0
