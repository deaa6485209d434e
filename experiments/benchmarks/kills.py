"""Kills `fft tune` at random moments, resumes it, and compares the result with an uninterrupted run.

    python -m experiments.benchmarks.kills [--kills 20] [--seed 0]

The run covers all stages: it fits a head for the original task, estimates the Fisher information, trains with dropout
and EWC, scores, saves, selects the best step, and writes its model and report. The base is the tests' tiny model, two
blocks of width 16, to keep runs short. The time of the SIGKILL is uniform over the duration of an uninterrupted run,
imports included. Weights, history, and scores before and after with their intervals must be equal to the last bit.
"""

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from tests.helpers import tiny_checkpoint, tiny_runs

FLAGS = "--original-head fit --method full+ewc --ewc.samples 64 --steps 48 --batch-size 16 --lr 3e-3 --tolerance 1"


def begin(folder: Path, out: Path):
    """Start the run in a new process, with a persistent cache of compiled programs in `folder`."""
    data = ("--new", folder / "new.csv", "--original", folder / "original.csv")
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    arguments = ("--model", folder / "bare", *data, "--out", out, *FLAGS.split())
    return tiny_runs.start("tune", *arguments, env=environment)


def complete(folder: Path, out: Path) -> float:
    """Run to the end and return the seconds it took."""
    start = time.perf_counter()
    answer = tiny_runs.finish(begin(folder, out))
    if answer.code != 0:
        raise SystemExit(f"exit code {answer.code}: {answer.err}")
    return time.perf_counter() - start


def killed(folder: Path, out: Path, moment: Callable[[], float]) -> float:
    """Kill the run after `moment()` seconds and return these; repeat if it had already finished."""
    while True:
        seconds, process = moment(), begin(folder, out)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL and not (out / "run.json").exists():
            return seconds
        shutil.rmtree(out, ignore_errors=True)


def reached(out: Path) -> str:
    """Describe how far a killed run had come, by its files."""
    log = out / "metrics.jsonl"
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    if lines:
        last = json.loads(lines[-1])
        return f"{last['event']} {last['step']}"
    steps = ("prepared", "heads", "experiment.json")
    return next((f"{name} begun" for name in steps if (out / name).exists()), "no folder yet")


def main(kills: int = 20, seed: int = 0) -> None:
    """Kill, resume, compare; print the table and, last, {"kills", "bit_equal"} as JSON."""
    rng, table = (
        random.Random(seed),
        Table("kill", "after s", "last event before", "saved steps", "resumed, s", "equal"),
    )
    equal = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_checkpoint.write_checkpoint(folder / "bare", head=False)
        tiny_checkpoint.write_original(folder / "original.csv")
        tiny_checkpoint.write_new(folder / "new.csv", filler=(2, 5))
        cold = complete(folder, folder / "alone")
        expected = tiny_runs.outcome(folder / "alone")
        warm = complete(folder, folder / "again")
        for number in range(1, kills + 1):
            out = folder / f"run{number}"
            seconds = killed(folder, out, lambda: rng.uniform(0, warm))
            before = reached(out)
            saved = [path.name for path in sorted((out / "checkpoints").glob("[0-9]*"))]
            resumed = complete(folder, out)
            actual = tiny_runs.outcome(out)
            differing = [name for name in expected if actual[name] != expected[name]]
            equal += not differing
            steps = ", ".join(str(int(step.split(".")[0])) for step in saved)
            table.add_row(str(number), f"{seconds:.2f}", before, steps, f"{resumed:.1f}", ", ".join(differing) or "all")
        repeated = tiny_runs.outcome(folder / "again") == expected
    Console(width=100).print(table)
    print(
        f"uninterrupted: {cold:.1f} s the first time, {warm:.1f} s the second, {'equal' if repeated else 'NOT equal'}"
    )
    print(json.dumps({"kills": kills, "bit_equal": equal}))


if __name__ == "__main__":
    tyro.cli(main)
