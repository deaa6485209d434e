"""`fft data`: look into a data source before training on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fft.core.bounds import Count, check_bounds
from fft.core.settings import TELLS_DEFAULT, AsJson, without_name
from fft.data.several import UnnamedData
from fft.data.task_data import DEFAULT_LENGTH
from fft.disk.local import CHECKPOINT


@dataclass(frozen=True)
class Flags:
    """Look into a data source: rows, labels, lengths, what would be cut, and what is wrong with it."""

    task: UnnamedData
    model: Annotated[str | None, TELLS_DEFAULT, CHECKPOINT] = None
    """a checkpoint folder or a run, whose tokenizer counts the tokens (default: lengths are in words)"""
    max_length: Annotated[Count | None, TELLS_DEFAULT] = None
    """tokens of a text; longer ones are cut and counted (default: those that the model was trained at, or 128)"""
    json: AsJson = False

    def __post_init__(self) -> None:
        check_bounds(self)


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags; the source may be named as elsewhere, `fft data --task new.csv`."""
    return cli(Flags, args=without_name(args, "--task"))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Describe the source and print a table."""
    from fft.data import describe
    from fft.run.restored import tokenizer_folder

    folder, length = (None, None) if flags.model is None else tokenizer_folder(flags.model)
    found = describe(flags.task, folder, flags.max_length or length or DEFAULT_LENGTH)
    unit = found["length_unit"]
    table = Table("split", "rows", "labels", f"median {unit}", f"99 % {unit}", f"longest, {unit}", "cut", "duplicates")
    for name, split in found["splits"].items():
        values = split.get("labels") or split["targets"]
        shown = ", ".join(f"{label}: {value}" for label, value in list(values.items())[:8])
        lengths = [f"{split['lengths'][q]:g}" for q in ("0.5", "0.99", "1.0")]
        cut = "" if split["cut"] is None else str(split["cut"])
        # Text, so that a label with [brackets] is not read as markup
        table.add_row(*map(Text, (name, str(split["rows"]), shown, *lengths, cut, str(split["duplicates"]))))
    console.print(table)
    for trouble in found["troubles"]:
        console.out(f"trouble: {trouble}", highlight=False)
    return found, 0
