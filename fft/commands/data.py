"""`fft data`: inspect a data source before training on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fft.core.bounds import Count, check_bounds
from fft.core.settings import TELLS_DEFAULT, AsJson, without_name
from fft.data.settings import predicts_tokens
from fft.data.several import UnnamedData
from fft.disk.local import CHECKPOINT


@dataclass(frozen=True)
class Flags:
    """Inspect a data source: rows, labels, text lengths, texts that would be cut, and problems."""

    task: UnnamedData
    model: Annotated[str | None, TELLS_DEFAULT, CHECKPOINT] = None
    """a checkpoint or run folder whose tokenizer counts the tokens (default: count words)"""
    max_length: Annotated[Count | None, TELLS_DEFAULT] = None
    """maximum tokens per text; longer texts count as cut (default: the length the model was trained at, or 128,
    of language tasks 1,024)"""
    json: AsJson = False

    def __post_init__(self) -> None:
        check_bounds(self)


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags; `fft data --task new.csv` is the same as `fft data new.csv`."""
    return cli(Flags, args=without_name(args, "--task"))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Print a table of the source's splits, and notes on what may be wrong or should be known."""
    from fft import models
    from fft.data import describe
    from fft.run.restored import tokenizer_folder

    folder, length = (None, None) if flags.model is None else tokenizer_folder(flags.model)
    language = predicts_tokens([flags.task])
    config = models.read_config(folder) if language and folder is not None else None
    description = describe(flags.task, folder, flags.max_length or length, config)
    unit = description["length_unit"]
    counts = "tokens" if language else "labels"
    table = Table("split", "rows", counts, f"median {unit}", f"99 % {unit}", f"longest, {unit}", "cut", "duplicates")
    for name, split in description["splits"].items():
        values = split.get("labels") or split.get("targets", {})
        if language and values:
            shown = f"{values['tokens']:,}, {values['supervised']:,} supervised"
        else:
            shown = ", ".join(f"{label}: {value}" for label, value in list(values.items())[:8])
        lengths = [f"{split['lengths'][q]:g}" for q in ("0.5", "0.99", "1.0")]
        cut = "" if split["cut"] is None else str(split["cut"])
        # Text, so that a label with [brackets] is not read as markup
        table.add_row(*map(Text, (name, str(split["rows"]), shown, *lengths, cut, str(split["duplicates"]))))
    console.print(table)
    console.out(f"kind of task: {description['kind']}", highlight=False)
    for note in description["troubles"]:
        console.out(f"note: {note}", highlight=False)
    for text in description.get("shown", ()):
        console.out(text, highlight=False)
    return description, 0
