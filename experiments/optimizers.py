"""The default learning rate of each optimizer: a grid of rates for full fine-tuning, scored on validation rows.

    python -m experiments.optimizers --out runs/optimizers   runs what is missing, safe to kill and repeat, and writes
                                                             experiments/results/optimizers.json and optimizers.md

MiniLM learns tweets with a new head, one epoch at batch 32, last step, two seeds. An optimizer's rate is the one with
the best mean score; its factor is that rate over AdamW's.
"""

from pathlib import Path

import numpy as np
import tyro

from experiments.article import RESULTS
from experiments.cached import FIELDS, cached_runs
from fft.data.demo import minilm_folder
from fft.disk.files import replace_file
from fft.experiment import Data, Experiment, Optim, Retention

TASK = "demo:tweets"
SEEDS = (0, 1)
RATES = {
    "adamw": (5e-5, 1e-4, 2e-4, 5e-4),
    "lion": (1e-5, 2e-5, 5e-5, 1e-4),
    "sgd": (5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
    "adafactor": (5e-4, 1e-3, 2e-3, 5e-3, 1e-2),
}
LAST = Retention(keep="latest", eval_every=10_000, probe=10_000)
NAME = "{}-{:g}-seed{}"


def experiments() -> dict[str, Experiment]:
    """Return the experiments by name: every optimizer, rate and seed."""
    base = str(minilm_folder())
    return {
        NAME.format(optimizer, rate, seed): Experiment(
            base, Data(TASK), optim=Optim(lr=rate, epochs=1.0, optimizer=optimizer), retention=LAST, seed=seed
        )
        for seed in SEEDS
        for optimizer, rates in RATES.items()
        for rate in rates
    }


def scores(records: dict[str, dict]) -> dict[str, dict[float, list[float]]]:
    """Return {optimizer: {rate: scores of the last step on all validation rows}} of the finished runs."""
    by_optimizer: dict[str, dict[float, list[float]]] = {}
    for record in records.values():
        optim = record["experiment"]["optim"]
        of_rate = by_optimizer.setdefault(optim.get("optimizer", "adamw"), {}).setdefault(optim["lr"], [])
        of_rate.append(record["history"][-1]["new"])
    return by_optimizer


def markdown(by_optimizer: dict[str, dict[float, list[float]]]) -> str:
    """Return the table of all rates, and each optimizer's best rate over AdamW's."""
    means = {
        name: {rate: float(np.mean(values)) for rate, values in rates.items()} for name, rates in by_optimizer.items()
    }
    best = {name: max(rates, key=lambda rate: rates[rate]) for name, rates in means.items()}
    lines = [
        "# Learning rates of the optimizers",
        "",
        f"Full fine-tuning of MiniLM with a fresh head on {TASK}, one epoch at batch 32, linear schedule, weight decay "
        "0.01, clip 1; accuracy of the last step on all validation rows, mean (lowest to highest) over seeds. By "
        "`python -m experiments.optimizers`.",
        "",
        "| optimizer | rate | accuracy | runs |",
        "|---|---:|---|---:|",
    ]
    for name, rates in by_optimizer.items():
        for rate, values in rates.items():
            mark = "**" if rate == best[name] else ""
            mean = f"{mark}{means[name][rate]:.4f}{mark} ({min(values):.4f} to {max(values):.4f})"
            lines.append(f"| {name} | {rate:g} | {mean} | {len(values)} |")
    factors = ", ".join(f"{name} {rate / best.get('adamw', rate):g}" for name, rate in best.items())
    return "\n".join([*lines, "", f"The best rate over AdamW's: {factors}."]) + "\n"


def main(out: Path = Path("runs/optimizers")) -> None:
    """Run what experiments/results/optimizers.json lacks; update optimizers.md after every run."""
    for records in cached_runs(experiments(), out, RESULTS / "optimizers.json", fields=(*FIELDS, "history")):
        replace_file(RESULTS / "optimizers.md", markdown(scores(records)).encode())


if __name__ == "__main__":
    tyro.cli(main)
