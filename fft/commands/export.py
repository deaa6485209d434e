"""`fft export`: write a run's model as a Hugging Face checkpoint, or its adapter in PEFT's format."""

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

    Likewise the model in a GGUF file, de-quantized to float32. With --to peft, write only the adapter that the run
    trained; PEFT loads it onto the run's base.
    """

    run: Annotated[tyro.conf.Positional[CheckpointPath], tyro.conf.arg(metavar="RUN")]
    """the run folder, a GGUF file or demo:smollm2; with --adapter, the base: a Hugging Face folder, or hf:NAME"""
    out: Path
    """output folder; it must be new or an earlier export"""
    to: Literal["hf", "peft"] = "hf"
    """hf: a Hugging Face checkpoint with adapters merged; peft: the adapter alone in PEFT's format"""
    adapter: Path | None = None
    """a folder with a PEFT adapter to merge into the base"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head to export as the classifier (default: the new task's)"""
    step: Annotated[Literal["best", "latest"] | None, TELLS_DEFAULT] = None
    """the step of the run to export (default: the one selected by the run's --keep)"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags; `fft export --run RUN` is the same as `fft export RUN`."""
    return cli(Flags, args=without_name(args, "--run"))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Restore the step and write the model or its adapter."""
    from fft import models
    from fft.models.files.source import is_converted
    from fft.models.heads import chosen_head, with_heads

    if not flags.adapter and is_converted(flags.run):
        return _convert(flags, console)
    if flags.to == "peft":
        return _write_adapter(flags, console)
    restored = _merged(flags, flags.adapter) if flags.adapter else _restored(flags, console)
    _note(restored.notes, console)
    has_head = flags.head or restored.heads
    head = chosen_head(restored, flags.head, str(flags.run), "to export") if has_head else None
    folder = models.save(restored, flags.out, primary=head)
    if (dtype := restored.raw_config["dtype"]) != "float32":
        console.out(f"note: the weights are rounded to {dtype}, the dtype of the base", highlight=False)
    console.out(f"wrote {folder} with {with_heads(head, restored.heads)}", highlight=False)
    return {"folder": str(folder), "head": head, "heads": list(restored.heads)}, 0


def _convert(flags: Flags, console: Console) -> tuple[dict, int]:
    """Write a model that is no run's and has no heads. Raises: InputError for flags that select a part of a run."""
    from fft import models

    of_runs = {"--to peft": flags.to == "peft", "--head": flags.head is not None, "--step": flags.step is not None}
    if given := [flag for flag, is_given in of_runs.items() if is_given]:
        raise InputError(f"{given[0]} selects a part of a run, and {flags.run} is a language model: leave it out")
    folder = models.export_model(flags.run, flags.out)
    console.out(f"wrote {folder} in float32, with a language head", highlight=False)
    return {"folder": str(folder), "head": None, "heads": []}, 0


def _restored(flags: Flags, console: Console) -> "Checkpoint":
    """Restore the model of the run's step."""
    from fft.run.restored import restore

    restored = restore(flags.run, flags.step)
    _warn(flags, console)
    return restored


def _merged(flags: Flags, adapter: Path) -> "Checkpoint":
    """Load the base and merge the adapter into it. Raises: InputError if --step is given."""
    from fft.adapters import load_adapter, load_base

    if flags.step is not None:
        raise InputError(
            "--step selects a step of a run, and with --adapter RUN is a base model: leave out one of them"
        )
    base = load_base(flags.run, adapter)
    return load_adapter(adapter, base).on(base)


def _write_adapter(flags: Flags, console: Console) -> tuple[dict, int]:
    """Write the run's adapter in PEFT's format. Raises: InputError if --adapter is given."""
    from fft.adapters import save_adapter
    from fft.models.heads import chosen_head
    from fft.run.restored import adapter_of

    if flags.adapter:
        raise InputError(
            "--adapter is a PEFT adapter already, and --to peft writes that of a run: leave out one of them"
        )
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
        console.out(f"warning: {flags.run} kept the base, step 0, so this model is not fine-tuned", highlight=False)
