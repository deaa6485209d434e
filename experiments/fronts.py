"""Every method's front: movie reviews kept, tweets learned, three strengths a method, three seeds.

    python -m experiments.fronts --out runs/fronts         runs what is missing, safe to kill and repeat, and writes
                                                           experiments/results/fronts.{json,md,svg,png}

The strength of full fine-tuning and of LoRA is the learning rate; the others have full fine-tuning's middle one.
Replay and KL read as many original rows as new ones.
Nothing is chosen on the way: the last step counts, and the test splits are scored once, after it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console

from experiments.article import ADAPTER, HIGH, LAST, RESULTS, ROWS, spread
from experiments.base import quick_base
from experiments.kept import kept_runs
from fft.commands.demo import NEW, ORIGINAL
from fft.experiment import Data, Experiment, Optim
from fft.methods import EWC, KL, L2SP, Full, LoRA, LwF, Method, Replay, Wise

SEEDS, RATE = (0, 1, 2), 1e-4


class Tried(NamedTuple):
    """A method at one strength."""

    front: str
    strength: float
    method: Method
    lr: float = RATE


TRIED = [
    *(Tried("full", lr, Full(), lr) for lr in (3e-5, 1e-4, HIGH)),
    *(Tried("lora", lr, LoRA(), lr) for lr in (1e-4, 3e-4, ADAPTER)),
    *(Tried("ewc", strength, EWC(strength=strength)) for strength in (3e3, 3e4, 3e5)),
    *(Tried("l2sp", strength, L2SP(strength=strength)) for strength in (0.1, 1.0, 10.0)),
    *(Tried("replay", strength, Replay(strength=strength, ratio=1.0)) for strength in (0.3, 1.0, 3.0)),
    *(Tried("kl", strength, KL(strength=strength, ratio=1.0)) for strength in (0.3, 1.0, 10.0)),
    *(Tried("lwf", strength, LwF(strength=strength)) for strength in (0.1, 1.0, 10.0)),
    *(Tried("wise", alpha, Full() + Wise(alpha=alpha)) for alpha in (0.25, 0.5, 0.75)),
]


def name_of(tried: Tried, seed: int) -> str:
    """The run's name, such as `kl-0.3-seed1`."""
    return f"{tried.front}-{tried.strength:g}-seed{seed}"


def experiments() -> dict[str, Experiment]:
    """Every method at every strength with every seed, seed by seed, so that a killed sweep has whole columns."""
    base = str(quick_base(Console(stderr=True)))
    return {
        name_of(tried, seed): Experiment(
            base,
            Data(NEW, train_rows=ROWS),
            Data(ORIGINAL),
            tried.method,
            Optim(lr=tried.lr, epochs=1.0),
            LAST,
            head="shared",
            seed=seed,
        )
        for seed in SEEDS
        for tried in TRIED
    }


def markdown(records: dict[str, dict]) -> str:
    """The table: mean and standard deviation over the seeds that ran."""
    first = next(iter(records.values()))
    lines = [
        "# The fronts of the methods, movie -> tweets",
        "",
        f"MiniLM trained on movie snippets (base: original {first['original']['before']:.3f}, new "
        f"{first['new']['before']:.3f}), then on {ROWS:,} tweets for one epoch, 42 steps of 32, peak rate {RATE:g}; "
        f"accuracy on the test splits ({first['original']['n']:,} movie snippets, {first['new']['n']:,} tweets) after "
        f"the last step; mean ± standard deviation over seeds; {len(records)} of {len(TRIED) * len(SEEDS)} runs are "
        "finished. The head is shared. The strength of full and lora is the rate, that of wise is α; replay and kl "
        "read as many original rows as new ones. By `python -m experiments.fronts`.",
        "",
        "| method | strength | original | forgotten | new | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for tried in TRIED:
        found = [records[name] for name in (name_of(tried, seed) for seed in SEEDS) if name in records]
        if found:
            original, new = (np.array([record[task]["after"] for record in found]) for task in ("original", "new"))
            seconds = np.median([record["seconds"]["total"] for record in found])
            lines.append(
                f"| {tried.front} | {tried.strength:g} | {spread(original)} | "
                f"{spread(first['original']['before'] - original)} | {spread(new)} | {seconds:.0f} |"
            )
    return "\n".join(lines) + "\n"


def write(records: dict[str, dict], stem: Path) -> None:
    """The table and the picture of what there is."""
    from fft.disk.files import replace_file
    from fft.report.fronts import draw_fronts, fronts_markdown
    from fft.stats.fronts import fronts

    stem.parent.mkdir(parents=True, exist_ok=True)
    runs = list(records.values())
    found, matched = fronts(runs)
    table = markdown(records) + "\n" + fronts_markdown(found, matched)
    replace_file(stem.with_suffix(".md"), table.encode())
    draw_fronts(found, matched, runs, stem)


def main(out: Path = Path("runs/fronts")) -> None:
    """Run what experiments/results/fronts.json does not hold; after every run fronts.{md,svg,png} say what there is."""
    for records in kept_runs(experiments(), out, RESULTS / "fronts.json"):
        write(records, RESULTS / "fronts")


if __name__ == "__main__":
    tyro.cli(main)
