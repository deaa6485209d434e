"""How long every command says nothing: the longest silence of a run of each on the demo's data, as nobody's terminal.

    python -m experiments.benchmarks.silence [--only tune repair] [--out runs/silence]

Each command is a process of its own, and what it writes is time-stamped as it comes, from its start to its end. They
build on each other: `tune` makes what `check`, `repair`, … read. `python` is `fft.tune`. The demo's base is trained
first where it is missing.
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

from experiments.kept import kept
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


class Heard(NamedTuple):
    """What was heard of a process."""

    seconds: float
    silence: float
    """the longest"""
    before: str
    """the line that it came after"""
    code: int


def listen(command: list[str]) -> Heard:
    """Run a command and time-stamp what it writes."""
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
    return Heard(time.monotonic() - start, silence, before.strip()[:70], process.wait())


def commands(base: str, out: Path) -> dict[str, list[str]]:
    """What is run, in this order."""
    (out / "tune.py").write_text(PROGRAM.format(new=NEW, original=ORIGINAL, rows=NEW_ROWS))
    (out / "sweep.py").write_text(SWEEP.format(base=base, new=NEW, original=ORIGINAL, rows=NEW_ROWS))
    full, kept_run = str(out / "full"), str(out / "kept")
    flags = {
        "data": ["data", NEW, "--model", base],
        "fisher": ["fisher", "--model", base, "--original", ORIGINAL, "--out", out / "fisher"],
        "tune": ["tune", "--model", base, *DATA, *EPOCH, "--method", "full", "--lr", "3e-4", "--out", full],
        "tune --max-drop": ["tune", "--model", base, *DATA, *EPOCH, "--max-drop", "0.01", "--out", kept_run],
        "eval": ["eval", "--model", full, "--task", NEW],
        "check": ["check", base, full, "--original", ORIGINAL, "--new", NEW, "--out", out / "check"],
        "compare": ["compare", full, kept_run, "--out", out / "front"],
        "diagnose": ["diagnose", base, full, "--original", ORIGINAL, "--out", out / "diagnose"],
        "repair": ["repair", base, full, *DATA, "--out", out / "repair"],
        "merge": ["merge", base, full, kept_run, "--how", "soup", "--task", NEW, "--out", out / "merged"],
        "export": ["export", full, "--out", out / "exported"],
        "sequence": ["sequence", "--model", base, *TASKS, "--original", ORIGINAL, "--out", out / "sequence"],
        "sweep": ["sweep", out / "sweep.py", "--out", out / "swept"],
        "demo": ["demo", "--out", out / "demo"],
    }
    found = {name: [sys.executable, "-m", "fft", *map(str, given)] for name, given in flags.items()}
    return found | {"python": [sys.executable, str(out / "tune.py"), base, str(out / "python")]}


def main(out: Path = Path("runs/silence"), only: tuple[str, ...] = ()) -> None:
    """Listen to every command, or to some, and print the longest silence of each."""
    out.mkdir(parents=True, exist_ok=True)
    base = str(trained_base(Console(stderr=True)))
    table = Table("command", "seconds", "longest silence, s", "after", "exit code")
    for name, command in commands(base, out).items():
        if only and name not in only:
            continue
        heard = Heard(*kept(out / f"{name}.json", lambda command=command: listen(command)))
        told = (f"{heard.seconds:.0f}", f"{heard.silence:.1f}", heard.before, str(heard.code))
        table.add_row(shlex.quote(name), *told)
        print(name, *told, sep=" | ", flush=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    tyro.cli(main)
