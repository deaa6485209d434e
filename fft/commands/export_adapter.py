"""`fft export --to peft` and `--to lora`: write the adapter of a run, or that of a tuned checkpoint and its base."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fft.core.naming import UNEMBED

if TYPE_CHECKING:
    from fft.models import Checkpoint

RANK = 16
"""of an adapter that is made of a tuned checkpoint"""


def write_adapter(run: str, out: Path, step: str | None, head: str | None, console: Console) -> tuple[dict, int]:
    """Write the run's adapter in PEFT's format."""
    from fft.adapters import save_adapter
    from fft.models.heads import chosen_head
    from fft.run.restored import adapter_of

    base, adapter, source = adapter_of(run, step)
    if head is not None or base.primary != UNEMBED:
        head = chosen_head(base, head, str(run), "to export")
    folder = save_adapter(adapter, base, out, source.removeprefix("hf:"), head)
    note((*base.notes, *_served(folder, base)), console)
    warn_of_base(run, step, console)
    console.out(
        f"wrote {folder}: the adapter of {adapter.method.name} for {source}, head {head or UNEMBED}", highlight=False
    )
    return {"folder": str(folder), "head": head, "base": source}, 0


def write_low_rank(tuned: str, base: str, out: Path, rank: int, console: Console) -> tuple[dict, int]:
    """Write a tuned checkpoint less its base as a LoRA adapter, and print what it leaves out."""
    from fft import models
    from fft.adapters import save_adapter
    from fft.adapters.lowrank import extracted
    from fft.evaluate.difference import difference
    from fft.run.restored import model_folder

    source = model_folder(tuned)
    language = models.predicts_next(source)
    whole, start = models.load(source, language), models.load(base, language)
    found = extracted(whole, start, rank)
    folder = save_adapter(found.adapter, found.base, out, base.removeprefix("hf:"), whole.primary)
    change = difference(whole, found.adapter.on(found.base), whole.primary)
    notes = [*whole.notes, *start.notes, *_served(folder, start)]
    if found.whole:
        notes.append(f"saved in full, as they are no kernels: {', '.join(found.whole)}")
    if found.left_out:
        notes.append(f"an adapter has one head; left out: {', '.join(found.left_out)}")
    note(tuple(notes), console)
    console.out(
        f"rank {rank} has {100 * found.share:.2f} % of the kernels' squared change; it changed {change.sentence()}",
        highlight=False,
    )
    console.out(f"wrote {folder}: the LoRA adapter of {tuned} for {base}", highlight=False)
    result = {"folder": str(folder), "head": whole.primary, "base": base, "rank": rank, "share": found.share}
    return result | {"difference": change._asdict(), "whole": list(found.whole)}, 0


def _served(folder: str | Path, base: "Checkpoint") -> tuple[str, ...]:
    """Return notes on what vLLM does not load of an adapter of a decoder."""
    from fft.adapters.serving import serving_notes
    from fft.disk.files import read_object
    from fft.models import FAMILIES

    is_encoder = FAMILIES[base.model.family].language.masked
    return () if is_encoder else serving_notes(read_object(Path(folder) / "adapter_config.json"))


def note(notes: tuple[str, ...], console: Console) -> None:
    """Print notes."""
    for text in notes:
        console.out(f"note: {text}", highlight=False)


def warn_of_base(run: str, step: str | None, console: Console) -> None:
    """Print a warning if the step of a run is the base itself."""
    from fft.run.restored import kept_base

    if kept_base(run, step):
        console.out(f"warning: {run} kept the base, step 0, so this model is not fine-tuned", highlight=False)
