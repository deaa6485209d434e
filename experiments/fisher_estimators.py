"""Tests whether EWC's λ transfers between Fisher estimators and batch sizes: a grid on digits and on MiniLM.

python -m experiments.fisher_estimators digits                 minutes; experiments/results/fisher_digits.{md,svg,png}
python -m experiments.fisher_estimators minilm --out runs/fisher_estimators
                                                               half an hour; experiments/results/fisher_minilm.md

Both are safe to kill and repeat.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from scipy.stats import spearmanr

from experiments.article import ROWS, spread
from experiments.base import short_movie_base
from experiments.fisher_digits import at_matched, grid, write
from fft.commands.demo import NEW, ORIGINAL
from fft.commands.sweep import run_missing
from fft.core.tree import flatten
from fft.experiment import Data, Experiment, Optim, Retention
from fft.fisher.diagonal import FisherPass
from fft.fisher.information import load_fisher
from fft.methods import EWC
from fft.run.fisher import measure
from fft.run.settings import FisherSettings

RESULTS = Path(__file__).parent / "results"
# name: (estimator, batch size of the Fisher pass)
ESTIMATORS = {
    "mc": ("mc", 32),
    "empirical": ("empirical", 32),
    "batched-8": ("batched", 8),
    "batched-32": ("batched", 32),
}
STRENGTHS = (1e3, 3e4, 1e6, 3e7)
LR, SEEDS = 3e-4, (0, 1, 2)
MATCHED = 0.95  # tweets
# λ is chosen on validation rows at the last step; the test split is only for the table.
LAST = Retention(keep="latest", probe=256, eval_every=10_000)


def experiments(names: tuple[str, ...] = tuple(ESTIMATORS), seeds: tuple[int, ...] = SEEDS[:1]) -> dict:
    """Return the experiments by name: one epoch of tweets with EWC for every λ."""
    base = str(short_movie_base(Console(stderr=True)))
    return {
        f"{name}-{strength:g}-seed{seed}": experiment(base, name, strength, seed)
        for seed in seeds
        for name in names
        for strength in STRENGTHS
    }


def experiment(base: str, name: str, strength: float, seed: int) -> Experiment:
    """Return one experiment of the grid."""
    estimator, batch_size = ESTIMATORS[name]
    return Experiment(
        base,
        Data(NEW, train_rows=ROWS),
        Data(ORIGINAL),
        EWC(strength=strength, estimator=estimator, batch_size=batch_size),
        Optim(lr=LR, epochs=1.0),
        LAST,
        head="shared",
        seed=seed,
    )


def minilm(out: Path = Path("runs/fisher_estimators")) -> None:
    """Run the grid on movie -> tweets with one seed, then each estimator's best λ with three."""
    console, records, known = Console(), {}, {}
    base = str(short_movie_base(console))
    exact = against_exact(base, out / "fisher", console)
    for name, of_grid in experiments().items():
        records |= run_missing({name: of_grid}, out, console, known)
        _write_minilm(records, exact)
    for name in ESTIMATORS:
        best = _best(records, name)
        for seed in SEEDS[1:]:
            chosen = {f"{name}-{best:g}-seed{seed}": experiment(base, name, best, seed)}
            records |= run_missing(chosen, out, console, known)
            _write_minilm(records, exact)


def digits() -> None:
    """Run the grid on digits and permuted digits."""
    write(grid(), RESULTS / "fisher_digits")


def _best(records: dict, name: str) -> float:
    """Return the λ with the best combined score of the last step on the validation probe, for seed 0."""
    finished = [s for s in STRENGTHS if f"{name}-{s:g}-seed0" in records]
    return max(finished, key=lambda s: records[f"{name}-{s:g}-seed0"]["history"][-1]["combined"])


def against_exact(base: str, out: Path, console: Console) -> dict[str, tuple[float, float]]:
    """Return {estimator: (trace relative to `exact`, Spearman's correlation with it over parameters)}, same rows."""
    numbers = {}
    for name, (estimator, batch_size) in {"exact": ("exact", 32), **ESTIMATORS}.items():
        settings = FisherPass(estimator=estimator, batch_size=batch_size)
        console.print(f"the Fisher information of the base: {name}")
        measure(FisherSettings(base, Data(ORIGINAL), estimate=settings), out / name)
        leaves = flatten(load_fisher(out / name)[0])
        numbers[name] = np.concatenate([np.ravel(leaf) for leaf in leaves.values()])
    exact = numbers.pop("exact")
    return {
        name: (float(values.sum(dtype=np.float64) / exact.sum(dtype=np.float64)), spearmanr(values, exact).statistic)
        for name, values in numbers.items()
    }


def _write_minilm(records: dict, exact: dict[str, tuple[float, float]]) -> None:
    """Write the grid, and the best λ of every estimator over the finished seeds."""
    from fft.disk.files import replace_file

    first = next(iter(records.values()))
    lines = [
        "# EWC's λ by the estimator of the Fisher, on MiniLM",
        "",
        f"MiniLM trained on movie snippets (test {first['original']['before']:.3f} on them, "
        f"{first['new']['before']:.3f} on tweets), then one epoch of {ROWS:,} tweets at {LR:g}, full fine-tuning with "
        "EWC, Fisher over 512 rows, the head shared. Each cell: movie after / tweets after on the test splits, seed 0; "
        "bold: the best combined score on 256 + 256 validation rows. By `python -m experiments.fisher_estimators "
        "minilm`.",
        "",
        "| estimator | trace / exact | rank | " + " | ".join(f"λ = {s:g}" for s in STRENGTHS) + " |",
        "|---|---:|---:|" + "---:|" * len(STRENGTHS),
    ]
    for name in ESTIMATORS:
        cells = [records.get(f"{name}-{s:g}-seed0") for s in STRENGTHS]
        if not any(cells):
            continue
        best = _best(records, name)
        shown = [
            "" if r is None else f"{mark}{r['original']['after']:.3f} / {r['new']['after']:.3f}{mark}"
            for s, r in zip(STRENGTHS, cells, strict=True)
            for mark in ("**" if s == best else "",)
        ]
        trace, rank = exact[name]
        lines.append(f"| {name} | {trace:.3g} | {rank:.3f} | " + " | ".join(shown) + " |")
    lines += [
        "",
        f"Matched: movie, seed 0, where tweets are at {MATCHED:g}, on the line between the neighbouring λ.",
        "",
        "| estimator | its best λ | seeds | movie after | tweets after | movie, matched |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in ESTIMATORS:
        if f"{name}-{STRENGTHS[0]:g}-seed0" not in records:
            continue
        best = _best(records, name)
        runs = [records[key] for key in (f"{name}-{best:g}-seed{seed}" for seed in SEEDS) if key in records]
        scores = [spread(np.array([run[task]["after"] for run in runs])) for task in ("original", "new")]
        grid_of = [records[key] for key in (f"{name}-{s:g}-seed0" for s in STRENGTHS) if key in records]
        first, second = (np.array([run[task]["after"] for run in grid_of]) for task in ("original", "new"))
        matched = at_matched(first, second, MATCHED)
        lines.append(f"| {name} | {best:g} | {len(runs)} | {scores[0]} | {scores[1]} | {matched:.3f} |")
    RESULTS.mkdir(parents=True, exist_ok=True)
    replace_file(RESULTS / "fisher_minilm.md", ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"digits": digits, "minilm": minilm})
