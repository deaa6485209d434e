"""Every method's Pareto front: learn tweets, preserve movie reviews, three strengths per method, three seeds.

    python -m experiments.fronts --out runs/fronts         runs what is missing, safe to kill and repeat, and writes
                                                           experiments/results/fronts.{json,md,svg,png}

The strength of full fine-tuning and of LoRA is the learning rate; the other methods use full fine-tuning's middle rate.
Replay and KL read as many original rows as new ones. The last step is scored once on the test splits, without any
selection.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console

from experiments.article import ADAPTER, HIGH, LAST, RESULTS, ROWS, spread
from experiments.base import short_movie_base
from experiments.cached import cached_runs
from fft.commands.demo import NEW, ORIGINAL
from fft.experiment import Data, Experiment, Optim
from fft.methods import EWC, KL, L2SP, Full, LoRA, LwF, Method, Replay, Wise

SEEDS, RATE = (0, 1, 2), 1e-4


class Candidate(NamedTuple):
    """A method at one strength."""

    front: str
    strength: float
    method: Method
    lr: float = RATE


CANDIDATES = [
    *(Candidate("full", lr, Full(), lr) for lr in (3e-5, 1e-4, HIGH)),
    *(Candidate("lora", lr, LoRA(), lr) for lr in (1e-4, 3e-4, ADAPTER)),
    *(Candidate("ewc", strength, EWC(strength=strength)) for strength in (3e3, 3e4, 3e5)),
    *(Candidate("l2sp", strength, L2SP(strength=strength)) for strength in (0.1, 1.0, 10.0)),
    *(Candidate("replay", strength, Replay(strength=strength, ratio=1.0)) for strength in (0.3, 1.0, 3.0)),
    *(Candidate("kl", strength, KL(strength=strength, ratio=1.0)) for strength in (0.3, 1.0, 10.0)),
    *(Candidate("lwf", strength, LwF(strength=strength)) for strength in (0.1, 1.0, 10.0)),
    *(Candidate("wise", alpha, Full() + Wise(alpha=alpha)) for alpha in (0.25, 0.5, 0.75)),
]


def name_of(candidate: Candidate, seed: int) -> str:
    """Return the run's name, such as `kl-0.3-seed1`."""
    return f"{candidate.front}-{candidate.strength:g}-seed{seed}"


def experiments() -> dict[str, Experiment]:
    """Return every method, strength and seed, seed by seed, so that an interrupted sweep has complete seeds."""
    base = str(short_movie_base(Console(stderr=True)))
    return {
        name_of(candidate, seed): Experiment(
            base,
            Data(NEW, train_rows=ROWS),
            Data(ORIGINAL),
            candidate.method,
            Optim(lr=candidate.lr, epochs=1.0),
            LAST,
            head="shared",
            seed=seed,
        )
        for seed in SEEDS
        for candidate in CANDIDATES
    }


def markdown(records: dict[str, dict]) -> str:
    """Return the table: mean and standard deviation over the finished seeds."""
    first = next(iter(records.values()))
    lines = [
        "# The fronts of the methods, movie -> tweets",
        "",
        f"MiniLM trained on movie snippets (base: original {first['original']['before']:.3f}, new "
        f"{first['new']['before']:.3f}), then on {ROWS:,} tweets for one epoch, 42 steps of 32, peak rate {RATE:g}; "
        f"accuracy on the test splits ({first['original']['n']:,} movie snippets, {first['new']['n']:,} tweets) after "
        f"the last step; mean ± standard deviation over seeds; {len(records)} of {len(CANDIDATES) * len(SEEDS)} runs "
        "are finished. The head is shared. The strength of full and lora is the rate, that of wise is α; replay and kl "
        "read as many original rows as new ones. By `python -m experiments.fronts`.",
        "",
        "| method | strength | original | forgotten | new | seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for candidate in CANDIDATES:
        of_candidate = [records[name] for name in (name_of(candidate, seed) for seed in SEEDS) if name in records]
        if of_candidate:
            original, new = (
                np.array([record[task]["after"] for record in of_candidate]) for task in ("original", "new")
            )
            seconds = np.median([record["seconds"]["total"] for record in of_candidate])
            lines.append(
                f"| {candidate.front} | {candidate.strength:g} | {spread(original)} | "
                f"{spread(first['original']['before'] - original)} | {spread(new)} | {seconds:.0f} |"
            )
    return "\n".join(lines) + "\n"


def write(records: dict[str, dict], stem: Path) -> None:
    """Write the table and the picture of the finished runs."""
    from fft.disk.files import replace_file
    from fft.report.fronts import draw_fronts, fronts_markdown
    from fft.stats.fronts import fronts

    stem.parent.mkdir(parents=True, exist_ok=True)
    runs = list(records.values())
    by_method, matched = fronts(runs)
    table = markdown(records) + "\n" + fronts_markdown(by_method, matched)
    replace_file(stem.with_suffix(".md"), table.encode())
    draw_fronts(by_method, matched, runs, stem)


def main(out: Path = Path("runs/fronts")) -> None:
    """Run what experiments/results/fronts.json lacks; update fronts.{md,svg,png} after every run."""
    for records in cached_runs(experiments(), out, RESULTS / "fronts.json"):
        write(records, RESULTS / "fronts")


if __name__ == "__main__":
    tyro.cli(main)
