"""`fft compare`: put finished runs side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from fft.core.errors import InputError
from fft.core.naming import ORIGINAL, original_names
from fft.core.settings import AsJson
from fft.disk.files import read_object


@dataclass(frozen=True)
class Flags:
    """Put finished runs side by side: one table, and one picture of original against new score.

    Where a method has several strengths, also its whole front: hypervolume, and the original score at the same new
    score, with intervals over seeds.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="")
    ]
    """run folders, at least one"""
    out: Path | None = None
    """write the picture to OUT.svg and OUT.png and tables to OUT.md and OUT-table.md; fronts to OUT-fronts,
    courses to OUT-steps"""
    original: str = ORIGINAL
    """of runs with several original tasks, which one the pictures and fronts are of: original, original_2, …"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Read every run.json, warn where runs cannot be compared, print and draw."""
    from fft.experiment import with_defaults

    if not flags.runs:
        raise InputError("fft compare needs at least one run folder")
    records = [read_object(path / "run.json") | {"name": path.resolve().name} for path in flags.runs]
    for warning in differences(records):
        console.out(f"warning: {warning}", highlight=False)
    pictured = [of_original(with_defaults(record), flags.original) for record in records]
    show(records, console, flags.out, pictured)
    rows = show_ablation(pictured, console, flags.out)
    found = show_fronts(pictured, console, flags.out)
    return {"runs": records, "table": rows, "fronts": found, "warnings": differences(records)}, 0


def differences(records: list[dict]) -> list[str]:
    """What makes the scores of some runs incomparable: other test rows, cut elsewhere, another base, other metrics."""
    from fft.data.task_data import DEFAULT_LENGTH

    found = []
    for what, value in (
        ("base model", lambda r: r["base_sha256"]),
        ("new test rows", lambda r: r["data"]["new"]["splits"]["test"]["sha256"]),
        ("original test rows", lambda r: [r["data"][n]["splits"]["test"]["sha256"] for n in original_names(r["data"])]),
        ("length of texts", lambda r: r["experiment"]["max_length"] or DEFAULT_LENGTH),
        ("new metric", lambda r: r["new"]["metric"]),
        ("original metric", lambda r: [(r[name] or {}).get("metric") for name in original_names(r["data"])]),
    ):
        if any(value(record) != value(records[0]) for record in records):
            found.append(f"the runs differ in their {what}, so their scores are not comparable")
    return found


def of_original(record: dict, name: str) -> dict:
    """A run as if the original task `name` were its only one; InputError where it has no such task."""
    there = original_names(record["data"])
    if name == ORIGINAL and len(there) < 2:
        return record
    if name not in there:
        raise InputError(f"--original {name}: the run {record['name']} has {', '.join(there) or 'no original task'}")
    history = [entry | {ORIGINAL: entry[name]} for entry in record["history"]]
    return record | {ORIGINAL: record[name], "history": history}


def show(records: list[dict], console: Console, stem: Path | None, pictured: list[dict] | None = None) -> None:
    """Print the table of some runs; with a path also write the table and the picture (of `pictured`, where those are
    other records), and say so.
    """
    from fft.disk.files import replace_file, writing
    from fft.report import tables
    from fft.report.front import front_of_runs

    console.print(tables.before_after(records))
    if stem is None:
        return
    with writing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    table = stem.with_name(stem.name + ".md")
    replace_file(table, tables.markdown(records).encode())
    written = [table, *front_of_runs(pictured or records, stem)]
    console.out(f"wrote {', '.join(map(str, written))}", highlight=False)


def show_ablation(records: list[dict], console: Console, stem: Path | None) -> list[dict]:
    """Print the table of methods and settings over seeds, and with a path write it; returns its rows."""
    from fft.disk.files import replace_file
    from fft.report.ablation import ablation_markdown, ablation_table
    from fft.stats.ablation import ablation

    rows = ablation(records)
    console.print(ablation_table(rows))
    if stem is not None:
        table = stem.with_name(f"{stem.name}-table.md")
        replace_file(table, ablation_markdown(rows).encode())
        console.out(f"wrote {table}", highlight=False)
    return [row._asdict() for row in rows]


def show_fronts(records: list[dict], console: Console, stem: Path | None) -> dict:
    """Print the table of the methods' fronts where one has several settings; with a path write it, and the pictures
    over strengths and over steps. {"matched", "methods"} of what was found.
    """
    from fft.disk.files import plain, replace_file
    from fft.report.fronts import draw_fronts, draw_steps, fronts_markdown, fronts_table
    from fft.stats.fronts import fronts

    found, matched = fronts(records)
    written = []
    if matched is not None and any(front.settings > 1 for front in found):
        console.print(fronts_table(found, matched))
        if stem is not None:
            table = stem.with_name(f"{stem.name}-fronts.md")
            replace_file(table, fronts_markdown(found, matched).encode())
            written += [table, *draw_fronts(found, matched, records, stem.with_name(f"{stem.name}-fronts"))]
    if stem is not None:
        written += draw_steps(records, stem.with_name(f"{stem.name}-steps"))
    if written:
        console.out(f"wrote {', '.join(map(str, written))}", highlight=False)
    methods = {
        front.method: front._asdict()
        | {"hypervolume": front.hypervolume._asdict(), "original": front.original._asdict()}
        for front in found
    }
    return plain({"matched": matched, "methods": methods})
