"""The cost of storing EWC's Fisher information in fewer bytes: scores, disk and memory, on MiniLM.

    python -m experiments.fisher_storage          writes experiments/results/fisher_storage.md; about ten minutes

The same Fisher (mc, 512 movie snippets) is written in each storage and used for one epoch of tweets, with the best λ of
experiments/fisher_estimators.py. Every command runs in its own process; memory is its peak.
"""

import json
import sys
import tempfile
from pathlib import Path

import tyro
from rich.console import Console

from experiments.article import ROWS
from experiments.base import short_movie_base
from experiments.benchmarks.end_to_end import measure
from fft.commands.demo import NEW, ORIGINAL

STRENGTH, LR = 3e4, 3e-4
RESULT = Path(__file__).parent / "results" / "fisher_storage.md"


def main() -> None:
    """Measure and write the table."""
    from fft.disk.files import replace_file

    base, fft = str(short_movie_base(Console(stderr=True))), [sys.executable, "-m", "fft"]
    lines = [
        "# EWC with a Fisher in fewer bytes",
        "",
        f"MiniLM trained on movie snippets, then {ROWS:,} tweets, full fine-tuning with EWC, λ = {STRENGTH:g}, "
        "the same Fisher in each storage; one seed. By `python -m experiments.fisher_storage`.",
        "",
        "| storage | artefact | movie after | tweets after | penalty at the end | peak memory of the run |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for storage in ("float32", "bfloat16", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            fisher, run = f"{folder}/fisher", f"{folder}/run"
            sources = ["--model", base, "--original", ORIGINAL]
            measure([*fft, "fisher", *sources, "--storage", storage, "--out", fisher, "--json"])
            flags = f"--new.train-rows {ROWS} --head shared --epochs 1 --lr {LR} --keep latest --json"
            ewc = f"--method ewc --ewc.strength {STRENGTH} --fisher {fisher}".split()
            tuned = measure([*fft, "tune", *sources, "--new", NEW, "--out", run, *ewc, *flags.split()])
            megabytes = (Path(fisher) / "tensors.safetensors").stat().st_size / 1e6
            original, new = (tuned.result[task]["after"] for task in ("original", "new"))
            lines.append(
                f"| {storage} | {megabytes:.1f} MB | {original:.3f} | {new:.3f} | {_last_penalty(Path(run)):.5f} | "
                f"{tuned.memory_bytes / 1e6:,.0f} MB |"
            )
    replace_file(RESULT, ("\n".join(lines) + "\n").encode())


def _last_penalty(run: Path) -> float:
    """Return the penalty of the last step in the run's log."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event["penalty"] for event in events if event["event"] == "step"][-1]


if __name__ == "__main__":
    tyro.cli(main)
