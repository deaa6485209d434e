"""`fft export`: write a run's model as a Hugging Face checkpoint, or its adapter as PEFT's files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, AsJson, without_name
from fft.disk.local import CheckpointPath

if TYPE_CHECKING:
    from fft.models import Checkpoint


@dataclass(frozen=True)
class Flags:
    """Write the model of a run as a Hugging Face checkpoint: weights, config, tokenizer, label names.

    With --to peft, write the adapter that the run trained instead, for PEFT to load onto the run's base.
    """

    run: Annotated[tyro.conf.Positional[CheckpointPath], tyro.conf.arg(metavar="RUN")]
    """the run folder; with --adapter, the base: a folder with a Hugging Face checkpoint, or hf:NAME"""
    out: Path
    """the folder to write; it must not exist yet, or be an earlier export"""
    to: Literal["hf", "peft"] = "hf"
    """a Hugging Face checkpoint, adapters merged, or the adapter alone in PEFT's files"""
    adapter: Path | None = None
    """a folder with PEFT's files, to be merged into the base"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head to export as the classifier (default: the new task's)"""
    step: Annotated[Literal["best", "latest"] | None, TELLS_DEFAULT] = None
    """which step of the run (default: the one the run keeps, its setting `keep`)"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags; the run folder may be named, `fft export --run RUN --out DIR`."""
    return cli(Flags, args=without_name(args, "--run"))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Restore the step and write it, whole or as its adapter."""
    if flags.to == "peft":
        return _write_adapter(flags, console)
    from fft import models
    from fft.models.heads import chosen_head, with_heads

    restored = _merged(flags, flags.adapter) if flags.adapter else _restored(flags, console)
    _note(restored.notes, console)
    wanted = flags.head or restored.heads
    head = chosen_head(restored, flags.head, str(flags.run), "to export") if wanted else None
    folder = models.save(restored, flags.out, primary=head)
    if (dtype := restored.raw_config["dtype"]) != "float32":
        console.out(f"note: the weights are rounded to {dtype}, as the base is stored", highlight=False)
    console.out(f"wrote {folder} with {with_heads(head, restored.heads)}", highlight=False)
    return {"folder": str(folder), "head": head, "heads": list(restored.heads)}, 0


def _restored(flags: Flags, console: Console) -> "Checkpoint":
    """The model of the run's step."""
    from fft.run.restored import restore

    restored = restore(flags.run, flags.step)
    _warn(flags, console)
    return restored


def _merged(flags: Flags, adapter: Path) -> "Checkpoint":
    """The base with the adapter merged into it."""
    from fft import models
    from fft.adapters import load_adapter

    if flags.step is not None:
        raise InputError("--step is of a run; with --adapter the model is a base, which has no steps")
    base = models.load(flags.run)
    return load_adapter(adapter, base).on(base)


def _write_adapter(flags: Flags, console: Console) -> tuple[dict, int]:
    """Write the run's adapter as PEFT's files."""
    from fft.adapters import save_adapter
    from fft.models.heads import chosen_head
    from fft.run.restored import adapter_of

    if flags.adapter:
        raise InputError("--adapter names PEFT's files already; --to peft writes those of a run")
    base, adapter, source = adapter_of(flags.run, flags.step)
    head = chosen_head(base, flags.head, str(flags.run), "to export")
    folder = save_adapter(adapter, base, flags.out, source.removeprefix("hf:"), head)
    _note(base.notes, console)
    _warn(flags, console)
    console.out(f"wrote {folder}: the adapter of {adapter.method.name} for {source}, head {head}", highlight=False)
    return {"folder": str(folder), "head": head, "base": source}, 0


def _note(notes: tuple[str, ...], console: Console) -> None:
    for note in notes:
        console.out(f"note: {note}", highlight=False)


def _warn(flags: Flags, console: Console) -> None:
    from fft.run.restored import kept_base

    if kept_base(flags.run, flags.step):
        console.out(f"warning: {flags.run} kept the base, step 0: this is not fine-tuned", highlight=False)
