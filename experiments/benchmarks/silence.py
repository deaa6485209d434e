"""The longest time that each command prints nothing, on the demo's data and without a terminal.

    python -m experiments.benchmarks.silence [--only tune repair] [--out runs/silence]

Each command runs in its own process, and its output is time-stamped on arrival. Commands build on each other: `check`,
`repair`, … read the output of `tune`. `python` is `fft.tune`. The demo's base is trained first if it is missing.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from experiments.cached import cached
from fft.commands.demo import NEW, NEW_ROWS, ORIGINAL, trained_base

DATA = ("--original", ORIGINAL, "--new", NEW)
EPOCH = ("--new.train-rows", str(NEW_ROWS), "--epochs", "1", "--head", "shared")
TASKS = ("--tasks", NEW, "demo:nyt", "--method", "ewc", "--steps", "40", "--head", "shared")
PROGRAM = """
import sys
import fft
fft.tune(sys.argv[1], fft.Data({new!r}, train_rows={rows}), {original!r}, out=sys.argv[2], max_drop="0.01", epochs=1.0,
         head="shared")
"""
SWEEP = """
import fft

def experiments():
    return {{
        f"seed{{seed}}": fft.Experiment({base!r}, fft.Data({new!r}, train_rows={rows}), fft.Data({original!r}),
                                        optim=fft.Optim(epochs=1.0), head="shared", seed=seed)
        for seed in (0, 1)
    }}
"""


class Timing(NamedTuple):
    """The output timing of a process."""

    seconds: float
    silence: float
    """longest time without output"""
    before: str
    """the line before it"""
    code: int


def listen(command: list[str]) -> Timing:
    """Run a command and time-stamp its output."""
    start = last = time.monotonic()
    silence, before, line = 0.0, "", "(the start)"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while True:
        text = os.read(process.stdout.fileno(), 65536).decode(errors="replace")
        now = time.monotonic()
        if now - last > silence:
            silence, before = now - last, line
        if not text:
            break
        last, line = now, ([line, *filter(str.strip, text.splitlines())])[-1]
    return Timing(time.monotonic() - start, silence, before.strip()[:70], process.wait())


def commands(base: str, out: Path) -> dict[str, list[str]]:
    """Return the commands to run, in order."""
    (out / "tune.py").write_text(PROGRAM.format(new=NEW, original=ORIGINAL, rows=NEW_ROWS))
    (out / "sweep.py").write_text(SWEEP.format(base=base, new=NEW, original=ORIGINAL, rows=NEW_ROWS))
    full, contract_run = str(out / "full"), str(out / "kept")
    flags = {
        "data": ["data", NEW, "--model", base],
        "fisher": ["fisher", "--model", base, "--original", ORIGINAL, "--out", out / "fisher"],
        "tune": ["tune", "--model", base, *DATA, *EPOCH, "--method", "full", "--lr", "3e-4", "--out", full],
        "tune --max-drop": ["tune", "--model", base, *DATA, *EPOCH, "--max-drop", "0.01", "--out", contract_run],
        "eval": ["eval", "--model", full, "--task", NEW],
        "check": ["check", base, full, "--original", ORIGINAL, "--new", NEW, "--out", out / "check"],
        "compare": ["compare", full, contract_run, "--out", out / "front"],
        "diagnose": ["diagnose", base, full, "--original", ORIGINAL, "--out", out / "diagnose"],
        "repair": ["repair", base, full, *DATA, "--out", out / "repair"],
        "merge": ["merge", base, full, contract_run, "--how", "soup", "--task", NEW, "--out", out / "merged"],
        "export": ["export", full, "--out", out / "exported"],
        "sequence": ["sequence", "--model", base, *TASKS, "--original", ORIGINAL, "--out", out / "sequence"],
        "sweep": ["sweep", out / "sweep.py", "--out", out / "swept"],
        "demo": ["demo", "--out", out / "demo"],
    }
    by_name = {name: [sys.executable, "-m", "fft", *map(str, arguments)] for name, arguments in flags.items()}
    return by_name | {"python": [sys.executable, str(out / "tune.py"), base, str(out / "python")]}


def main(out: Path = Path("runs/silence"), only: tuple[str, ...] = ()) -> None:
    """Measure every command, or those in `only`, and print the longest silence of each."""
    out.mkdir(parents=True, exist_ok=True)
    base = str(trained_base(Console(stderr=True)))
    table = Table("command", "seconds", "longest silence, s", "after", "exit code")
    for name, command in commands(base, out).items():
        if only and name not in only:
            continue
        timing = Timing(*cached(out / f"{name}.json", lambda command=command: listen(command)))
        cells = (f"{timing.seconds:.0f}", f"{timing.silence:.1f}", timing.before, str(timing.code))
        table.add_row(shlex.quote(name), *cells)
        print(name, *cells, sep=" | ", flush=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    tyro.cli(main)
