"""`fft tune` against a transformers training loop, as separate processes on the same data.

    python -m experiments.benchmarks.end_to_end [--rounds 3] [--steps 252]

Both start from the short movie base and take the same number of steps of 32 tweets (AdamW, dropout, clip 1, linear
schedule with warm-up, float32, 2 threads), and end by scoring both test splits. `fft tune` also compiles, scores the
base, scores both tasks on a probe at least eight times, saves checkpoints and writes its report. The transformers loop
pads each batch to its longest row and does nothing else. Processes alternate; wall seconds and peak memory include
imports.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from experiments.base import short_movie_base
from fft.commands.demo import NEW, ORIGINAL

BATCH, LR, THREADS = 32, 1e-4, 2


@dataclasses.dataclass
class Measured:
    """One process: wall seconds, peak resident bytes, and the JSON in its last line."""

    seconds: float
    memory_bytes: int
    result: dict


def plain_loop(base: str, steps: int) -> dict:
    """Train with torch eager, the transformers model and dynamic padding, and return the scores."""
    import numpy as np
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

    from fft.data import Columns, read_source

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tweets, movies = (read_source(source, Columns()) for source in (NEW, ORIGINAL))
    index = model.config.label2id

    def batch_of(rows, picked):
        texts = [rows.texts[i] for i in picked]
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        return tokens, torch.tensor([index[rows.labels[i]] for i in picked])

    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    train = tweets["train"]
    order = np.random.default_rng(0)
    model.train()
    taken = 0
    while taken < steps:
        shuffled = order.permutation(len(train.texts))
        for start in range(0, len(shuffled) - BATCH + 1, BATCH):
            tokens, labels = batch_of(train, shuffled[start : start + BATCH])
            model(**tokens, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            taken += 1
            if taken == steps:
                break
    model.eval()
    scores = {}
    with torch.no_grad():
        for name, rows in (("new", tweets["test"]), ("original", movies["test"])):
            right = 0
            for start in range(0, len(rows.texts), 64):
                tokens, labels = batch_of(rows, range(start, min(start + 64, len(rows.texts))))
                right += int((model(**tokens).logits.argmax(-1) == labels).sum())
            scores[name] = right / len(rows.texts)
    return scores


def measure(command: list[str]) -> Measured:
    """Run a command and measure its wall time, peak memory and last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    start = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, env=environment) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        output.seek(0)
        lines = output.read().splitlines()
    return Measured(seconds, usage.ru_maxrss * 1024, json.loads(lines[-1]))


def tune_command(base: str, steps: int, out: str) -> list[str]:
    """Return the `fft tune` command with defaults, the full method and the same optimizer settings."""
    flags = f"--new {NEW} --original {ORIGINAL} --head shared --method full --lr {LR} --steps {steps} --json"
    return [sys.executable, "-m", "fft", "tune", "--model", base, "--out", out, *flags.split()]


def main(rounds: int = 3, steps: int = 252, plain: bool = False) -> None:
    """Alternate both and print the table; `plain` runs only the transformers loop, in this process."""
    base = str(short_movie_base(Console(stderr=True)))
    if plain:
        print(json.dumps(plain_loop(base, steps)))
        return
    ours, theirs = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours.append(measure(tune_command(base, steps, str(Path(folder) / "run"))))
        module = [sys.executable, "-m", "experiments.benchmarks.end_to_end", "--plain", "--steps", str(steps)]
        theirs.append(measure(module))
    table = Table("", "examples/s", "seconds (min-max)", "peak MB", "new", "original")
    for name, runs in (("fft tune", ours), ("transformers loop", theirs)):
        seconds = [run.seconds for run in runs]
        new, original = _scores(runs[0].result)
        table.add_row(
            name,
            f"{steps * BATCH / statistics.median(seconds):.1f}",
            f"{statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})",
            f"{statistics.median(run.memory_bytes for run in runs) / 1e6:,.0f}",
            f"{new:.3f}",
            f"{original:.3f}",
        )
    Console(width=120).print(table)
    parts = [run.result["seconds"] for run in ours]
    print(
        "seconds of fft tune by part (median):", {k: round(statistics.median(p[k] for p in parts), 1) for k in parts[0]}
    )
    figures = {
        "speedup": statistics.median(t.seconds / o.seconds for o, t in zip(ours, theirs, strict=True)),
        "memory_ratio": statistics.median(o.memory_bytes / t.memory_bytes for o, t in zip(ours, theirs, strict=True)),
        "scoring_share": statistics.median(p["scoring"] / p["total"] for p in parts),
    }
    print(json.dumps(figures))


def _scores(result: dict) -> tuple[float, float]:
    """Return the scores (new, original) after training, for either program."""
    if "verdict" in result:
        return result["new"]["after"], result["original"]["after"]
    return result["new"], result["original"]


if __name__ == "__main__":
    tyro.cli(main)
