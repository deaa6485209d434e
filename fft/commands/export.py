"""`fft export`: write a run's model as a Hugging Face checkpoint, or its adapter in PEFT's format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import tyro
from rich.console import Console

from fft.commands.export_adapter import RANK, note, warn_of_base, write_adapter, write_low_rank
from fft.core.bounds import Count, check_bounds
from fft.core.errors import InputError
from fft.core.naming import UNEMBED
from fft.core.settings import TELLS_DEFAULT, AsJson, without_name
from fft.disk.folder import EXPERIMENT
from fft.disk.local import CHECKPOINT, CheckpointPath

if TYPE_CHECKING:
    from fft.adapters.adapter import Adapter
    from fft.models import Checkpoint


@dataclass(frozen=True)
class Flags:
    """Write the model of a run as a Hugging Face checkpoint: weights, config, tokenizer, label names.

    Likewise the model in a GGUF file, de-quantized to float32. With --to peft, write only the adapter that the run
    trained; PEFT loads it onto the run's base. With --to lora, write the difference of any tuned checkpoint from its
    base as a LoRA adapter, and measure what its rank costs.
    """

    run: Annotated[tyro.conf.Positional[CheckpointPath], tyro.conf.arg(metavar="RUN")]
    """the run folder, a GGUF file or demo:smollm2; with --adapter, the base: a Hugging Face folder, or hf:NAME; with
    --to lora the tuned checkpoint or run"""
    out: Path
    """output folder; it must be new or an earlier export"""
    to: Literal["hf", "peft", "lora"] = "hf"
    """hf: a Hugging Face checkpoint with adapters merged; peft: the adapter alone in PEFT's format; lora: RUN less
    --base, as a LoRA adapter in PEFT's format"""
    adapter: Path | None = None
    """a folder with a PEFT adapter to merge into the base"""
    base: Annotated[str | None, CHECKPOINT, TELLS_DEFAULT] = None
    """the checkpoint that RUN was tuned from, with --to lora"""
    rank: Annotated[Count | None, TELLS_DEFAULT] = None
    """the rank of the adapter, with --to lora (default: 16)"""
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head to export as the classifier (default: the new task's)"""
    step: Annotated[Literal["best", "latest"] | None, TELLS_DEFAULT] = None
    """the step of the run to export (default: the one selected by the run's --keep)"""
    json: AsJson = False

    def __post_init__(self) -> None:
        check_bounds(self)


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags; `fft export --run RUN` is the same as `fft export RUN`."""
    return cli(Flags, args=without_name(args, "--run"))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Restore the step and write the model or its adapter."""
    refuse_useless(flags)
    if flags.to == "lora":
        return write_low_rank(flags.run, flags.base or "", flags.out, flags.rank or RANK, console)
    from fft import models
    from fft.models.files.source import is_converted
    from fft.models.heads import chosen_head, with_heads

    if not flags.adapter and is_converted(flags.run):
        return _convert(flags, console)
    if flags.to == "peft":
        return write_adapter(flags.run, flags.out, flags.step, flags.head, console)
    made = _merged(flags, flags.adapter) if flags.adapter else _restored(flags, console)
    model = made.model
    note(model.notes, console)
    has_head = flags.head or (model.heads and model.primary != UNEMBED)
    head = chosen_head(model, flags.head, str(flags.run), "to export") if has_head else None
    folder = models.save(model, flags.out, primary=head)
    if (dtype := model.raw_config["dtype"]) != "float32":
        console.out(f"note: the weights are rounded to {dtype}, the dtype of the base", highlight=False)
    result = {"folder": str(folder), "head": head, "heads": list(model.heads)}
    if made.adapter is not None:
        from fft.adapters.merged import merging_difference

        change = merging_difference(made.adapter, made.base, model, head)
        text = f"merging the adapter and storing it in {dtype} changed {change.sentence()}"
        console.out(text, highlight=False)
        result["merging"] = change._asdict()
    heads = "its language head" if head is None and model.language else with_heads(head, model.heads)
    console.out(f"wrote {folder} with {heads}", highlight=False)
    return result, 0


def _convert(flags: Flags, console: Console) -> tuple[dict, int]:
    """Write a model that is no run's and has no heads. Raises: InputError for flags that select a part of a run."""
    from fft import models

    of_runs = {"--to peft": flags.to == "peft", "--head": flags.head is not None, "--step": flags.step is not None}
    if given := [flag for flag, is_given in of_runs.items() if is_given]:
        raise InputError(f"{given[0]} selects a part of a run, and {flags.run} is a language model: leave it out")
    folder = models.export_model(flags.run, flags.out)
    console.out(f"wrote {folder} in float32, with a language head", highlight=False)
    return {"folder": str(folder), "head": None, "heads": []}, 0


def refuse_useless(flags: Flags) -> None:
    """Refuse flags that have no effect together. Raises: InputError."""
    if flags.to == "lora" and (flags.adapter or flags.step or flags.head):
        raise InputError("--to lora reads RUN and --base whole: leave out --adapter, --step and --head")
    if flags.to == "lora" and flags.base is None:
        raise InputError("--to lora needs --base, the checkpoint that RUN was tuned from")
    if flags.to != "lora" and (flags.base is not None or flags.rank is not None):
        raise InputError("--base and --rank are for --to lora: give that, or leave them out")
    if flags.to == "peft" and flags.adapter:
        raise InputError(
            "--adapter is a PEFT adapter already, and --to peft writes that of a run: leave out one of them"
        )
    if flags.adapter and flags.step is not None:
        raise InputError(
            "--step selects a step of a run, and with --adapter RUN is a base model: leave out one of them"
        )
    if flags.to != "lora" and not flags.adapter and _is_checkpoint(Path(flags.run)):
        raise InputError(
            f"{flags.run} is a Hugging Face checkpoint already, no run: name a run, merge an adapter into it with "
            "--adapter, or write its difference from a base with --to lora --base BASE"
        )


def _is_checkpoint(folder: Path) -> bool:
    from fft.models.files.folders import CONFIG

    return (folder / CONFIG).is_file() and not (folder / EXPERIMENT).is_file()


class Made(NamedTuple):
    """The model to write and, if it is a base with an adapter merged, those."""

    model: "Checkpoint"
    base: "Checkpoint"
    adapter: "Adapter | None"


def _restored(flags: Flags, console: Console) -> Made:
    """Restore the model of the run's step."""
    from fft.run.restored import restored

    run = restored(flags.run, flags.step)
    warn_of_base(flags.run, flags.step, console)
    return Made(run.checkpoint._replace(params=run.params), run.checkpoint, run.merged_adapter())


def _merged(flags: Flags, folder: Path) -> Made:
    """Load the base and merge the adapter into it."""
    from fft.adapters import load_adapter, load_base

    base = load_base(flags.run, folder)
    adapter = load_adapter(folder, base)
    return Made(adapter.on(base), base, adapter)
