"""Tests the common advice against forgetting: learn tweets, preserve movie reviews, three seeds per recipe.

python -m experiments.article                            runs what is missing in experiments/results/article.json, safe
                                                         to kill and repeat, and writes article.{md,svg,png} beside it
fft sweep experiments/article.py --out runs/article      the same runs, whole folders
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from experiments.base import short_movie_base
from experiments.cached import cached_runs
from fft.commands.demo import NEW, ORIGINAL
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import EWC, Freeze, Full, Layerwise, LoRA

SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "results"
HIGH, LOW, ADAPTER = 3e-4, 2e-5, 1e-3
SMALL = 2_000  # training rows of the recipes on epochs

ROWS = 1_344  # half of the tweets: 42 steps of 32
# The last step is evaluated, so no earlier step is scored; early stopping scores 8 times.
LAST = Retention(keep="latest", probe=64, eval_every=10_000)
STOPPED = Retention(keep="best", probe=256, patience=2)

# name: (description, method, optimizer, retention, training rows)
RECIPES = {
    "full-low": ("full fine-tuning, low rate", Full(), Optim(lr=LOW, epochs=1.0), LAST, ROWS),
    "full-high": ("full fine-tuning, high rate", Full(), Optim(lr=HIGH, epochs=1.0), LAST, ROWS),
    "no-warmup": ("full-high without warmup", Full(), Optim(lr=HIGH, epochs=1.0, warmup=0.0), LAST, ROWS),
    "early-stop": ("full-high, stopped on the combined score", Full(), Optim(lr=HIGH, epochs=1.0), STOPPED, ROWS),
    "layerwise": ("full-high, rate x 0.9 a layer down", Layerwise(), Optim(lr=HIGH, epochs=1.0), LAST, ROWS),
    "freeze": ("full-high, lower half frozen", Freeze(), Optim(lr=HIGH, epochs=1.0), LAST, ROWS),
    "ewc": ("full-high with EWC, strength 1e3", EWC(), Optim(lr=HIGH, epochs=1.0), LAST, ROWS),
    "lora-r2": ("LoRA rank 2", LoRA(rank=2), Optim(lr=ADAPTER, epochs=1.0), LAST, ROWS),
    "lora-r8": ("LoRA rank 8", LoRA(rank=8), Optim(lr=ADAPTER, epochs=1.0), LAST, ROWS),
    "lora-r64": ("LoRA rank 64", LoRA(rank=64), Optim(lr=ADAPTER, epochs=1.0), LAST, ROWS),
    "batch-8": ("42 steps of 8 rows, rate 1e-4", Full(), Optim(lr=1e-4, steps=42, batch_size=8), LAST, None),
    "batch-32": ("42 steps of 32 rows, rate 1e-4", Full(), Optim(lr=1e-4, steps=42, batch_size=32), LAST, None),
    "batch-64": ("42 steps of 64 rows, rate 1e-4", Full(), Optim(lr=1e-4, steps=42, batch_size=64), LAST, None),
    "epochs-2": ("2 epochs at 1e-5 on 2,000 rows", Full(), Optim(lr=1e-5, epochs=2.0), LAST, SMALL),
    "epochs-10": ("10 epochs at 5e-5 on 2,000 rows", Full(), Optim(lr=5e-5, epochs=10.0), LAST, SMALL),
}


def experiments() -> dict[str, Experiment]:
    """Return every recipe with every seed, seed by seed, so that an interrupted sweep has complete seeds."""
    base = str(short_movie_base(Console(stderr=True)))
    return {
        f"{name}-seed{seed}": Experiment(
            base, Data(NEW, train_rows=rows), Data(ORIGINAL), method, optim, retention, head="shared", seed=seed
        )
        for seed in SEEDS
        for name, (_, method, optim, retention, rows) in RECIPES.items()
    }


@dataclasses.dataclass(frozen=True)
class Row:
    """The test scores of one recipe over its seeds, arrays [seeds]."""

    recipe: str
    what: str
    original: np.ndarray
    new: np.ndarray
    trained: float


def rows_of(records: dict[str, dict]) -> list[Row]:
    """Return the recipes with the scores of the finished seeds."""
    rows = []
    for name, (what, *_) in RECIPES.items():
        seeds = [records[key] for key in (f"{name}-seed{seed}" for seed in SEEDS) if key in records]
        if seeds:
            original, new = (np.array([record[task]["after"] for record in seeds]) for task in ("original", "new"))
            rows.append(Row(name, what, original, new, seeds[0]["percent_trained"]))
    return rows


def markdown(rows: list[Row], record: dict) -> str:
    """Return the table: mean and standard deviation over seeds, and the drop of every seed."""
    base_original, base_new = record["original"]["before"], record["new"]["before"]
    lines = [
        "# The common advice, measured",
        "",
        f"MiniLM trained on movie snippets (base: original {base_original:.3f}, new {base_new:.3f}), then on "
        f"{ROWS:,} tweets for one epoch (42 steps of 32; batch and epochs rows as they say); accuracy on the "
        f"test splits ({record['original']['n']:,} movie snippets, {record['new']['n']:,} tweets); "
        f"mean ± standard deviation over the seeds that ran: {sum(len(row.new) for row in rows)} of "
        f"{len(RECIPES) * len(SEEDS)} runs are finished. The head is shared. By `python -m experiments.article`.",
        "",
        "| recipe | what | original | forgotten | forgotten, each seed | new | trained |",
        "|---|---|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        drops = base_original - row.original
        by_seed = ", ".join(f"{drop:+.3f}" for drop in drops)
        lines.append(
            f"| {row.recipe} | {row.what} | {spread(row.original)} | {spread(drops)} | {by_seed} | {spread(row.new)} "
            f"| {row.trained:.3g} % |"
        )
    return "\n".join(lines) + "\n"


def spread(values: np.ndarray) -> str:
    """Return mean ± standard deviation over seeds with three decimals; for one seed the mean alone."""
    deviation = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def write(records: dict[str, dict], stem: Path) -> None:
    """Write the table and the picture, means with the range over seeds as bars."""
    from fft.disk.files import replace_file
    from fft.report.front import Point, axis_title, front

    rows, record = rows_of(records), next(iter(records.values()))
    stem.parent.mkdir(parents=True, exist_ok=True)
    replace_file(stem.with_suffix(".md"), markdown(rows, record).encode())
    points = [Point("base", record["original"]["before"], record["new"]["before"])]
    for row in rows:
        ranges = ((float(v.min()), float(v.max())) for v in (row.original, row.new))
        points.append(Point(row.recipe, float(row.original.mean()), float(row.new.mean()), *ranges))
    legend = f"marks: mean of {len(SEEDS)} seeds; bars: the lowest to the highest of them"
    front(points, stem, axis_title(record, "original"), axis_title(record, "new"), legend)


def main(out: Path = Path("runs/article")) -> None:
    """Run what experiments/results/article.json lacks; update the table and the picture after every run."""
    for records in cached_runs(experiments(), out, RESULTS / "article.json"):
        write(records, RESULTS / "article")


if __name__ == "__main__":
    tyro.cli(main)
