"""The effect of bfloat16 on scores and on the penalty of EWC: products, an adapter's frozen base, or both.

    python -m experiments.computation --out runs/computation   runs what is missing, safe to kill and repeat, and writes
                                                               experiments/results/computation.json and computation.md

MiniLM trained on movie snippets learns tweets with the same head: one epoch at batch 32, the last step, three seeds, at
each method's own rate. The base, the rows, their order and the random numbers of a seed are the same in all formats.
"""

import json
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from experiments.article import LAST, RESULTS
from experiments.base import movie_base
from experiments.cached import FIELDS, cached_runs
from fft.commands.demo import ORIGINAL
from fft.core.computation import PRECISE, Computation
from fft.disk.files import replace_file
from fft.experiment import Data, Experiment, Optim
from fft.methods import EWC, Full, LoRA, Method

TASK = "demo:tweets"
SEEDS = (0, 1, 2)
FORMATS = {
    "float32": PRECISE,
    "bfloat16 products": Computation(compute="bfloat16"),
    "bfloat16 base": Computation(base_dtype="bfloat16"),
    "bfloat16 products and base": Computation(compute="bfloat16", base_dtype="bfloat16"),
}
OF_WEIGHTS = tuple(FORMATS)[:2]
METHODS: dict[str, tuple[Method, tuple[str, ...]]] = {
    "full": (Full(), OF_WEIGHTS),
    "ewc": (EWC(), OF_WEIGHTS),
    "lora": (LoRA(), tuple(FORMATS)),
}
NAME = "{}, {}, seed {}"


def experiments() -> dict[str, Experiment]:
    """Return the experiments by name, seed by seed."""
    base = str(movie_base(Console(stderr=True)))
    return {
        NAME.format(name, numbers, seed): Experiment(
            base,
            Data(TASK),
            Data(ORIGINAL),
            method,
            Optim(epochs=1.0),
            LAST,
            head="shared",
            seed=seed,
            computation=FORMATS[numbers],
        )
        for seed in SEEDS
        for name, (method, formats) in METHODS.items()
        for numbers in formats
    }


def with_penalty(experiment: Experiment, folder: Path, record: dict) -> dict:
    """Return the record with the penalty of the last step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [event for event in map(json.loads, lines) if event["event"] == "step"]
    return record | {"penalty": steps[-1]["penalty"]}


def row(records: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scores on the new and on the original task, and the penalties, one for each seed."""
    new, original = (np.array([record[task]["after"] for record in records]) for task in ("new", "original"))
    return new, original, np.array([record["penalty"] for record in records])


def markdown(records: dict[str, dict]) -> str:
    """Return the table: means over seeds, and the range of the differences from float32 of the same seed."""
    lines = [
        "# bfloat16 against float32",
        "",
        f"MiniLM trained on movie snippets learns {TASK} with the same head: one epoch at batch 32, last step, each "
        "method's own rate. Accuracies on the test rows, mean over seeds, and in brackets the lowest and highest "
        "difference from the float32 run of the same seed; the penalty is that of the last step. By "
        "`python -m experiments.computation`.",
        "",
        "| method | format | seeds | new | original | penalty |",
        "|---|---|---:|---|---|---|",
    ]
    for name, (_, formats) in METHODS.items():
        for numbers in formats:
            pairs = [
                (record, records[NAME.format(name, "float32", seed)])
                for seed in SEEDS
                if (record := records.get(NAME.format(name, numbers, seed)))
            ]
            if not pairs:
                continue
            found, precise = (row([pair[side] for pair in pairs]) for side in (0, 1))
            cells = [
                f"{one.mean():.4f} ({(one - other).min():+.4f} to {(one - other).max():+.4f})"
                for one, other in zip(found[:2], precise[:2], strict=True)
            ]
            changes = found[2] / np.where(precise[2] == 0, 1, precise[2]) - 1
            penalty = f"{found[2].mean():.5f} ({changes.min():+.2%} to {changes.max():+.2%})" if name == "ewc" else ""
            lines.append(f"| {name} | {numbers} | {len(pairs)} | {' | '.join(cells)} | {penalty} |")
    return "\n".join(lines) + "\n"


def main(out: Path = Path("runs/computation")) -> None:
    """Run what experiments/results/computation.json lacks; update computation.md after every run."""
    results = RESULTS / "computation.json"
    for records in cached_runs(experiments(), out, results, with_penalty, (*FIELDS, "penalty")):
        replace_file(RESULTS / "computation.md", markdown(records).encode())


if __name__ == "__main__":
    tyro.cli(main)
