"""`fft compare`: put finished runs side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from fft.errors import InputError
from fft.record import read_object
from fft.schema import TELLS_DEFAULT


@dataclass(frozen=True)
class Flags:
    """Put finished runs side by side: one table, and one picture of original against new score."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], TELLS_DEFAULT]
    """run folders, at least one"""
    out: Path | None = None
    """write the picture to OUT.svg and OUT.png and the table to OUT.md"""
    json: bool = False
    """print the result as one JSON object on standard output, everything else on standard error"""


def parse(args: list[str], cli: Callable) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Read every run.json, warn where runs cannot be compared, print and draw."""
    if not flags.runs:
        raise InputError("fft compare needs at least one run folder")
    records = [read_object(path / "run.json") | {"name": path.resolve().name} for path in flags.runs]
    for warning in differences(records):
        console.out(f"warning: {warning}", highlight=False)
    show(records, console, flags.out)
    return {"runs": records, "warnings": differences(records)}, 0


def differences(records: list[dict]) -> list[str]:
    """What makes the scores of some runs incomparable: other test rows, another base, other metrics."""
    found = []
    for what, value in (
        ("base model", lambda r: r["base_sha256"]),
        ("new test rows", lambda r: r["data"]["new"]["splits"]["test"]["sha256"]),
        ("original test rows", lambda r: r["data"].get("original", {}).get("splits", {}).get("test", {}).get("sha256")),
        ("new metric", lambda r: r["new"]["metric"]),
        ("original metric", lambda r: (r["original"] or {}).get("metric")),
    ):
        if len({value(record) for record in records}) > 1:
            found.append(f"the runs differ in their {what}, so their scores are not comparable")
    return found


def show(records: list[dict], console: Console, stem: Path | None) -> None:
    """Print the table of some runs; with a path also write the table and the picture, and say so."""
    from fft.record import replace_file
    from fft.report import tables
    from fft.report.front import front_of_runs

    console.print(tables.before_after(records))
    if stem is None:
        return
    stem.parent.mkdir(parents=True, exist_ok=True)
    table = stem.with_name(stem.name + ".md")
    replace_file(table, tables.markdown(records).encode())
    written = [table, *front_of_runs(records, stem)]
    console.out(f"wrote {', '.join(map(str, written))}", highlight=False)
