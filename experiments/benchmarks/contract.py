"""The cost of preserving the original task: penalties per step, a run under a budget, repair by interpolation.

    python -m experiments.benchmarks.contract [--rounds 7] [--runs 3]

Steps: MiniLM with two heads, B = 32, T = 48, float32, AdamW, 2 threads, the methods alternating in one process; the
overhead is the share that a method adds to a full step. KL is on the new inputs (lwf), and also on 8 additional
original rows (kl). Repair: scoring interpolations of MiniLM on 1,000 + 600 rows against evaluating the same rows,
alternating. Budget: `fft tune` processes, one epoch of tweets with kl, with and without --max-drop, alternating; rate
and budget are chosen so that the last step loses too much, and the interpolations with the base are scored too.
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
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.data import eval_batches, prepare
from fft.data.demo import minilm_folder
from fft.evaluate.heldout import HeldOut
from fft.evaluate.predict import SCORE_BATCH, predict
from fft.evaluate.predictor import make_predict
from fft.experiment import Data, Optim
from fft.methods import EWC, KL, L2SP, Context, Full, LwF, Method
from fft.methods.context import NoTeacher
from fft.tasks import Classify
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import init_state
from fft.training.step import make_train_step

ROWS = {"original": 1_000, "new": 600}
SOURCES = {"original": "demo:movie", "new": "demo:tweets"}
LEAST_TRIED = 2  # candidates: the last step and an interpolation with the base
ALPHAS = (0.25, 0.5, 0.75)  # interpolations per round
PARTS = ("prepare", "train", "scoring", "saving")  # seconds of a run


class _Teacher(NoTeacher):
    """A teacher with the same output for every row."""

    def outputs(self, stream: str, part: str) -> np.ndarray:
        """Return logits [B, C]."""
        return np.zeros((B, len(LABELS)), np.float32)


def timed_step(method: Method):
    """Return a function that takes one step of a method on MiniLM with an original and a new head."""
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
    original_params = {**base, "heads": {"original": base["heads"]["original"]}}
    return {"fisher": jax.tree.map(jnp.ones_like, original_params), "unit": jnp.float32(1.0)}


def repairing():
    """Return functions that score interpolations, and as many ordinary parameter trees, on the same rows."""
    checkpoint = models.load(_base())
    data = {name: _rows(checkpoint, name) for name in ROWS}
    tuned = jax.tree.map(lambda leaf: leaf * 1.01, checkpoint.params)
    rows = HeldOut(checkpoint.model, data)
    predict_plain = make_predict(checkpoint.model, data["original"].task)
    batches_by_task = {
        name: list(eval_batches(part.splits["validation"], SCORE_BATCH, part.lengths, part.pad_id))
        for name, part in data.items()
    }

    def interpolate() -> None:
        for alpha in ALPHAS:
            rows.line(checkpoint.params, tuned, np.full(checkpoint.model.depth + 2, alpha))

    def evaluate() -> None:
        for _ in ALPHAS:
            for name, batches in batches_by_task.items():
                predict(predict_plain, tuned, batches, ROWS[name])

    return interpolate, evaluate


def _rows(checkpoint, name):
    """Return a task whose validation rows are ROWS of its training rows, with a single test row."""
    head = checkpoint.primary
    data = prepare(Data(SOURCES[name]), checkpoint, head, checkpoint.heads[head], seed=0, max_length=None)
    chosen = data.splits["train"].take(np.arange(ROWS[name]))
    return data._replace(splits={"validation": chosen, "test": chosen.take(np.arange(1))})


def _base() -> str:
    from experiments.base import short_movie_base

    return str(short_movie_base(Console(stderr=True)))


def run_seconds(folder: Path, *flags: str) -> dict[str, float]:
    """Return the wall seconds of an `fft tune` process, which may use cached compiled programs, and those of its parts.

    The parts are those of run.json; `rest` is imports, reading, compiling before step 1 and the report.
    """
    command = [sys.executable, "-m", "fft", "tune", "--model", _base(), "--method", "kl", "--head", "shared"]
    for name, source in SOURCES.items():
        command += [f"--{name}", source]
    start = time.monotonic()
    command += ["--epochs", "1", "--lr", "3e-4", "--out", str(folder), *flags]
    process = subprocess.run(command, capture_output=True)
    spent = time.monotonic() - start
    if process.returncode not in (0, 1, 4):
        raise RuntimeError(process.stderr.decode())
    record = json.loads((folder / "run.json").read_text())
    contract = record["contract"]
    if contract is not None and len(contract["tried"]) < LEAST_TRIED:
        raise RuntimeError(
            f"no interpolation with the base was scored, only {contract['tried']}: raise the rate or lower the budget"
        )
    parts = {name: record["seconds"][name] for name in PARTS}
    return {"wall": spent, **parts, "rest": spent - sum(parts.values())}


def main(rounds: int = 7, runs: int = 3) -> None:
    """Measure, print the table and, last, the figures as JSON."""
    keep_freed_memory()
    run_programs_in_turn()
    methods = {"full": Full(), "ewc": EWC(), "l2sp": L2SP(), "lwf": LwF(), "kl": KL(ratio=0.25)}
    seconds = alternate({name: timed_step(method) for name, method in methods.items()}, rounds, 2)
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

    whole: dict[str, list[dict[str, float]]] = {"free": [], "budget": []}
    with tempfile.TemporaryDirectory() as folder:
        for at in range(runs + 1):
            for name, flags in (("free", ()), ("budget", ("--max-drop", "0.001"))):
                spent = run_seconds(Path(folder) / f"{name}-{at}", *flags)
                if at:  # the first run of each compiles
                    whole[name].append(spent)
    median = {name: {part: statistics.median(run[part] for run in of) for part in of[0]} for name, of in whole.items()}
    budget_ratio = median["budget"]["wall"] / median["free"]["wall"]
    table = Table("whole run, median s", *median["free"], "wall of each")
    for name, of in whole.items():
        walls = ", ".join(f"{run['wall']:.1f}" for run in of)
        table.add_row(name, *(f"{spent:.1f}" for spent in median[name].values()), walls)
    Console(width=100).print(table)
    figures = {"budget_ratio": budget_ratio, "repair_ratio": repair_ratio}
    figures |= {f"{key}_overhead": ratios[name] - 1 for key, name in (("ewc", "ewc"), ("l2sp", "l2sp"), ("kl", "lwf"))}
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
