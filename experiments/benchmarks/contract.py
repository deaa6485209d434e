"""What keeping the original task costs: penalties in a step, a whole run under a budget, repair by interpolation.

    python -m experiments.benchmarks.contract [--rounds 7] [--runs 3]

Steps: MiniLM with two heads, B = 32, T = 48, float32, AdamW, 2 threads, the contenders taking turns in one process; an
overhead is the share that a method adds to a full step. KL is on the new inputs (lwf), and for the record on 8 original
rows beside them (kl). Repair: interpolations of MiniLM scored on 1,000 + 600 rows against plain evaluations of the same
rows, in turns. Budget: whole `fft tune` processes, one epoch of tweets with kl, with and without --max-drop, in turns;
rate and budget are such that the last step loses too much, so that the way back to the base is scored too.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.step import LABELS, LR, B, T, alternate, make_batch, paired_ratio
from fft import models
from fft.commands.allocator import keep_freed_memory
from fft.data import eval_batches, prepare
from fft.data.demo import minilm_folder
from fft.evaluate.heldout import HeldOut
from fft.evaluate.predict import SCORE_BATCH, make_predict, predict
from fft.experiment import Data, Optim
from fft.methods import EWC, KL, L2SP, Context, Full, LwF, Method
from fft.methods.context import NoTeacher
from fft.tasks import Classify
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import init_state
from fft.training.step import make_train_step

ROWS = {"original": 1_000, "new": 600}
SOURCES = {"original": "demo:movie", "new": "demo:tweets"}
WAY_SCORED = 2  # points at least: the last step and one on the way
ALPHAS = (0.25, 0.5, 0.75)  # of a turn; enough for a ratio


class _Teacher(NoTeacher):
    """A base that says the same of every row."""

    def outputs(self, stream: str, part: str) -> np.ndarray:
        """[B, C]"""
        return np.zeros((B, len(LABELS)), np.float32)


def held_step(method: Method):
    """A step of a method on MiniLM with an original and a new head; nothing is returned."""
    checkpoint = models.load(minilm_folder())
    head = checkpoint.model.init_head(jax.random.key(0), len(LABELS))
    base = {**checkpoint.params, "heads": {"original": head, "new": jax.tree.map(jnp.copy, head)}}
    context = Context(checkpoint.model, base, ("new",), teacher=_Teacher())
    aux = method.prepare(context, jax.random.key(0)) if not isinstance(method, EWC) else _fisher(base)
    theta = method.init(base, jax.random.key(1))
    multiplier = multipliers(method, theta, checkpoint.model.depth, ("original",))
    tx = make_optimizer(theta, multiplier, Optim(lr=LR), steps=1000)
    new, original = (Classify(name, LABELS) for name in ("new", "original"))
    step = make_train_step(checkpoint.model, new, method, tx, multiplier, original)
    state = init_state(theta, tx, jax.random.key(2))
    batch = {
        stream: jax.tree.map(lambda value: value[None], make_batch(T, rows))
        for stream, rows in {"new": B, **{name: int(share * B) for name, share in method.streams.items()}}.items()
    }

    def take() -> None:
        nonlocal state
        state, _ = step(state, base, aux, batch)
        jax.block_until_ready(state)

    return take


def _fisher(base):
    held = {**base, "heads": {"original": base["heads"]["original"]}}
    return {"fisher": jax.tree.map(jnp.ones_like, held), "unit": jnp.float32(1.0)}


def repairing():
    """(score interpolations, score as many plain parameter trees) on the same rows."""
    checkpoint = models.load(_base())
    data = {name: _rows(checkpoint, name) for name in ROWS}
    tuned = jax.tree.map(lambda leaf: leaf * 1.01, checkpoint.params)
    rows = HeldOut(checkpoint.model, data)
    plain = make_predict(checkpoint.model, data["original"].task)
    made = {
        name: list(eval_batches(part.splits["validation"], SCORE_BATCH, part.lengths, part.pad_id))
        for name, part in data.items()
    }

    def interpolate() -> None:
        for alpha in ALPHAS:
            rows.line(checkpoint.params, tuned, np.full(checkpoint.model.depth + 2, alpha))

    def evaluate() -> None:
        for _ in ALPHAS:
            for name, batches in made.items():
                predict(plain, tuned, batches, ROWS[name])

    return interpolate, evaluate


def _rows(checkpoint, name):
    """A task with its validation rows cut, or filled up with test and training rows, to ROWS; no test rows else."""
    head = checkpoint.primary
    data = prepare(Data(SOURCES[name]), checkpoint, head, checkpoint.heads[head], seed=0, max_length=None)
    chosen = data.splits["train"].take(np.arange(ROWS[name]))
    return data._replace(splits={"validation": chosen, "test": chosen.take(np.arange(1))})


def _base() -> str:
    from experiments.base import quick_base

    return str(quick_base(Console(stderr=True)))


def run_seconds(folder: Path, *flags: str) -> float:
    """Wall seconds of a whole `fft tune`, compiled programs from the cache where they are."""
    command = [sys.executable, "-m", "fft", "tune", "--model", _base(), "--method", "kl", "--head", "shared"]
    for name, source in SOURCES.items():
        command += [f"--{name}", source]
    start = time.monotonic()
    command += ["--epochs", "1", "--lr", "3e-4", "--out", str(folder), *flags]
    done = subprocess.run(command, capture_output=True)
    spent = time.monotonic() - start
    if done.returncode not in (0, 1, 4):
        raise RuntimeError(done.stderr.decode())
    contract = json.loads((folder / "run.json").read_text())["contract"]
    if contract is not None and len(contract["tried"]) < WAY_SCORED:
        raise RuntimeError(f"the way back to the base was not scored, only {contract['tried']}")
    return spent


def main(rounds: int = 7, runs: int = 3) -> None:
    """Measure, print the table and, last, the figures as JSON."""
    keep_freed_memory()
    methods = {"full": Full(), "ewc": EWC(), "l2sp": L2SP(), "lwf": LwF(), "kl": KL(ratio=0.25)}
    seconds = alternate({name: held_step(method) for name, method in methods.items()}, rounds, 2)
    table = Table("step", "median ms", "min-max ms", "of full (quartiles over rounds)")
    ratios = {}
    for name, times in seconds.items():
        ratios[name], quartiles = paired_ratio(times, seconds["full"])
        spread = f"{1e3 * min(times):.0f}-{1e3 * max(times):.0f}"
        table.add_row(name, f"{1e3 * statistics.median(times):.0f}", spread, f"{ratios[name]:.3f} {quartiles}")
    Console(width=100).print(table)

    interpolate, evaluate = repairing()
    turns = alternate({"interpolations": interpolate, "evaluations": evaluate}, max(rounds // 2, 2), 1)
    repair_ratio, quartiles = paired_ratio(turns["interpolations"], turns["evaluations"])
    print(f"{len(ALPHAS)} interpolations of evaluations: {repair_ratio:.3f} {quartiles}")

    whole: dict[str, list[float]] = {"free": [], "budget": []}
    with tempfile.TemporaryDirectory() as folder:
        for at in range(runs + 1):
            for name, flags in (("free", ()), ("budget", ("--max-drop", "0.001"))):
                spent = run_seconds(Path(folder) / f"{name}-{at}", *flags)
                if at:  # the first of each pays for compiling
                    whole[name].append(spent)
    budget_ratio = statistics.median(whole["budget"]) / statistics.median(whole["free"])
    for name, times in whole.items():
        print(f"whole run, {name}: " + ", ".join(f"{spent:.1f}" for spent in times) + " s")
    figures = {"budget_ratio": budget_ratio, "repair_ratio": repair_ratio}
    figures |= {f"{key}_overhead": ratios[name] - 1 for key, name in (("ewc", "ewc"), ("l2sp", "l2sp"), ("kl", "lwf"))}
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
