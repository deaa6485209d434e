"""How much `fft repair` recovers after full fine-tuning, and its time relative to training.

    python -m experiments.repairs --out runs/repairs     runs what is missing, safe to kill and repeat, and writes
                                                         experiments/results/repairs.json and repairs.md

The three pairs of experiments/bar.py, full fine-tuning with seed 0, repaired with default settings within .01.
"""

import time
from pathlib import Path

import tyro

from experiments import bar
from experiments.article import RESULTS
from experiments.cached import FIELDS, cached_runs
from fft.after.repair import repair
from fft.after.settings import RepairSettings
from fft.disk.files import replace_file
from fft.experiment import Experiment
from fft.report.repaired import described

SEED = 0


def repaired(experiment: Experiment, folder: Path, record: dict) -> dict:
    """Repair a run, and return its record with the result and the time of the repair."""
    (original,) = experiment.original
    settings = RepairSettings(experiment.model, str(folder), original, experiment.new, bar.MAX_DROP)
    start = time.monotonic()
    repair_record = repair(settings, folder.with_name(f"{folder.name}-out")).record
    seconds = time.monotonic() - start
    fields = ("outcome", "candidates", "chosen", "rows", "original", "new", "given_up", "tuned_change")
    return record | {"repair": {name: repair_record[name] for name in fields} | {"wall": seconds}}


HEADER = (
    "| new task | trained, s | repaired, s | ratio | candidates | chosen | validation: original lost | new gained "
    "| of full's | test: original lost | new: full → repaired | verdict |",
    "|---|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---|",
)


def line(pair: str, run: dict) -> str:
    """Return the table row of a pair."""
    repair_record, trained = run["repair"], run["seconds"]["total"]
    base, tuned = repair_record["candidates"][:2]
    best = repair_record["candidates"][repair_record["chosen"]] if repair_record["chosen"] is not None else base
    lost = repair_record["original"] and f"{-repair_record['original']['change']:+.4f}"
    news = (
        repair_record["given_up"]
        and f"{repair_record['given_up']['before']:.3f} → {repair_record['given_up']['after']:.3f}"
    )
    cells = (
        *(pair, f"{trained:.0f}", f"{repair_record['wall']:.0f}", f"{repair_record['wall'] / trained:.2f}"),
        *(str(len(repair_record["candidates"])), described(best), f"{best['drop']:+.4f}", f"{best['gain']:+.4f}"),
        *(f"{best['gain'] / tuned['gain']:.0%}", lost, news, repair_record["outcome"]),
    )
    return f"| {' | '.join(map(str, cells))} |"


def markdown(records: dict[str, dict]) -> str:
    """Return the table of all finished pairs."""
    lines = [
        "# What repair wins back",
        "",
        "Full fine-tuning on a new domain, the runs `full` of [bar.md](bar.md) with seed 0, repaired with the base by "
        f"`fft repair --max-drop {bar.MAX_DROP}` and its defaults. Seconds are of whole runs, compiling included. By "
        "`python -m experiments.repairs`.",
        "",
        *HEADER,
    ]
    for pair in bar.PAIRS:
        if run := records.get(bar.NAME.format(pair, "full", SEED)):
            lines.append(line(pair, run))
    return "\n".join(lines) + "\n"


def main(out: Path = Path("runs/repairs")) -> None:
    """Train and repair what experiments/results/repairs.json lacks."""
    names = [bar.NAME.format(pair, "full", SEED) for pair in bar.PAIRS]
    chosen = {name: experiment for name, experiment in bar.experiments().items() if name in names}
    for records in cached_runs(chosen, out, RESULTS / "repairs.json", repaired, (*FIELDS, "repair")):
        replace_file(RESULTS / "repairs.md", markdown(records).encode())


if __name__ == "__main__":
    tyro.cli(main)
