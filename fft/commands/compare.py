"""`fft compare`: compare finished runs."""

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
from fft.disk.folder import RECORD


@dataclass(frozen=True)
class Flags:
    """Compare finished runs: one table, and one picture of original score against new score.

    If a method ran with several strengths, also its Pareto front: the hypervolume, and the original score at equal new
    score, with intervals over seeds.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="")
    ]
    """run folders, at least one"""
    out: Path | None = None
    """write the picture to OUT.svg and OUT.png, the tables to OUT.md and OUT-table.md, the fronts to OUT-fronts, and
    the scores over training steps to OUT-steps"""
    original: str = ORIGINAL
    """the original task in the pictures and fronts, for runs with several: original, original_2, …"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Read every run.json, warn about incomparable runs, print the tables and draw the pictures."""
    from fft.experiment import with_defaults

    if not flags.runs:
        raise InputError("no run folder: give fft compare at least one")
    records = [read_object(path / "run.json", RECORD) | {"name": path.resolve().name} for path in flags.runs]
    for warning in differences(records):
        console.out(f"warning: {warning}", highlight=False)
    pictured = [of_original(with_defaults(record), flags.original) for record in records]
    show(records, console, flags.out, pictured)
    rows = show_ablation(pictured, console, flags.out)
    fronts = show_fronts(pictured, console, flags.out)
    return {"runs": records, "table": rows, "fronts": fronts, "warnings": differences(records)}, 0


def differences(records: list[dict]) -> list[str]:
    """Warnings for runs with incomparable scores: the base, test rows, maximum length or metrics differ."""
    warnings = []
    for what, value in (
        ("base model", lambda r: r["base_sha256"]),
        ("new test rows", lambda r: r["data"]["new"]["splits"]["test"]["sha256"]),
        ("original test rows", lambda r: [r["data"][n]["splits"]["test"]["sha256"] for n in original_names(r["data"])]),
        ("length of texts", lambda r: r["experiment"]["max_length"] or default_length(r["experiment"])),
        ("new metric", lambda r: r["new"]["metric"]),
        ("original metric", lambda r: [(r[name] or {}).get("metric") for name in original_names(r["data"])]),
    ):
        if any(value(record) != value(records[0]) for record in records):
            warnings.append(f"the runs differ in their {what}, so their scores are not comparable")
    return warnings


def default_length(experiment: dict) -> int:
    """Return the most tokens of a row in a run whose experiment, as JSON data, names none."""
    from fft.data.kinds import KINDS

    return KINDS[experiment["new"].get("kind") or "classification"].length


def of_original(record: dict, name: str) -> dict:
    """Return a run's record as if the original task `name` were its only one.

    Raises: InputError if the run has no such task.
    """
    names = original_names(record["data"])
    if name == ORIGINAL and len(names) < 2:
        return record
    if name not in names:
        has = f"has {', '.join(names)}: name one of these" if names else "has no original task: leave out --original"
        raise InputError(f"--original {name}: the run {record['name']} {has}")
    history = [entry | {ORIGINAL: entry[name]} for entry in record["history"]]
    return record | {ORIGINAL: record[name], "history": history}


def show(records: list[dict], console: Console, stem: Path | None, pictured: list[dict] | None = None) -> None:
    """Print the table of runs; with `stem` also write the table and the picture, and print their paths.

    The picture shows `pictured` if given, else `records`.
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
    """Print the table of methods and settings over seeds, write it if `stem` is given, and return its rows."""
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
    """Print the table of the methods' fronts if one has several settings; return {"matched", "methods"}.

    With `stem` also write the table, and the pictures over strengths and over training steps.
    """
    from fft.disk.files import plain, replace_file
    from fft.report.fronts import draw_fronts, draw_steps, fronts_markdown, fronts_table
    from fft.stats.fronts import fronts

    by_method, matched = fronts(records)
    written = []
    if matched is not None and any(front.settings > 1 for front in by_method):
        console.print(fronts_table(by_method, matched))
        if stem is not None:
            table = stem.with_name(f"{stem.name}-fronts.md")
            replace_file(table, fronts_markdown(by_method, matched).encode())
            written += [table, *draw_fronts(by_method, matched, records, stem.with_name(f"{stem.name}-fronts"))]
    if stem is not None:
        written += draw_steps(records, stem.with_name(f"{stem.name}-steps"))
    if written:
        console.out(f"wrote {', '.join(map(str, written))}", highlight=False)
    methods = {
        front.method: front._asdict()
        | {"hypervolume": front.hypervolume._asdict(), "original": front.original._asdict()}
        for front in by_method
    }
    return plain({"matched": matched, "methods": methods})
