"""The bar: movie reviews kept under `--max-drop 0.01` with nothing else said, and what the new task gains beside it.

    python -m experiments.bar --out runs/bar         runs what is missing, safe to kill and repeat, and writes
                                                     experiments/results/bar.json and bar.md

Three new tasks, each with full fine-tuning, with what `--method auto` chooses given the original data (under the
contract), and with what it chooses given neither original data nor other texts. Scores are on the test splits, once, at
the end. The gain is the new test score less the base's own; the share of it is that of full fine-tuning, mean over
seeds. Without original data nothing is watched: the drop is what `fft check` finds afterwards.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console

from experiments.article import LAST, RESULTS
from experiments.base import movie_base
from experiments.kept import kept_runs
from fft.after.check import check
from fft.after.settings import CheckSettings
from fft.commands.demo import ORIGINAL
from fft.data.several import SeveralData
from fft.disk.files import replace_file
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import Full
from fft.run.auto import choose
from fft.stats.intervals import Change

PAIRS = {"tweets": "demo:tweets", "nyt": "demo:nyt", "amazon": "demo:amazon"}
HOWS = ("full", "contract", "nothing")
SEEDS = (0, 1, 2)  # ten will do as well
MAX_DROP, RATE, EPOCHS = "0.01", 1e-4, 3.0
WITH, WITHOUT = 0.98, 0.85
"""the shares of full fine-tuning's gain that are asked for, with original data and without"""
NAME = "{}-{}-seed{}"


class Cell(NamedTuple):
    """A new task and a seed: test scores; drops of the original with the half-width of their 95 % interval."""

    base: float
    new: dict[str, float]
    drop: dict[str, float]
    half: dict[str, float]

    def gain(self, how: str) -> float:
        """What the new score gained over the base's own."""
        return self.new[how] - self.base


def experiments() -> dict[str, Experiment]:
    """Every pair and seed, seed by seed, so that a killed sweep has whole columns."""
    base, original = str(movie_base(Console(stderr=True))), Data(ORIGINAL)
    optim = Optim(lr=RATE, epochs=EPOCHS)
    under, free = (choose(given, unlabelled=False, head=True).chain() for given in (True, False))
    found = {}
    for seed in SEEDS:
        for pair, source in PAIRS.items():
            new, held = Data(source), Retention(max_drop=MAX_DROP)
            made = {
                "full": Experiment(base, new, original, Full(), optim, LAST, head="shared", seed=seed),
                "contract": Experiment(base, new, original, under, optim, held, head="shared", seed=seed),
                "nothing": Experiment(base, new, (), free, optim, LAST, seed=seed),
            }
            found |= {NAME.format(pair, how, seed): experiment for how, experiment in made.items()}
    return found


def cells(records: dict[str, dict]) -> dict[tuple[str, int], Cell]:
    """The pairs and seeds whose three runs are finished."""
    found = {}
    for pair in PAIRS:
        for seed in SEEDS:
            runs = {how: records.get(NAME.format(pair, how, seed)) for how in HOWS}
            if all(runs.values()):
                changes = {how: Change(**run["original"]) for how, run in runs.items()}
                found[pair, seed] = Cell(
                    runs["full"]["new"]["before"],
                    {how: run["new"]["after"] for how, run in runs.items()},
                    {how: -change.change for how, change in changes.items()},
                    {how: (change.high - change.low) / 2 for how, change in changes.items()},
                )
    return found


def share(found: list[Cell], how: str) -> float:
    """The mean gain as a share of full fine-tuning's."""
    return float(np.mean([cell.gain(how) for cell in found]) / np.mean([cell.gain("full") for cell in found]))


def markdown(found: dict[tuple[str, int], Cell]) -> str:
    """Every pair and seed, the means, and what the bar asks for."""
    margin = float(MAX_DROP)
    lines = [
        "# The bar: `--max-drop 0.01` and nothing else",
        "",
        f"MiniLM trained on movie snippets, then on a new domain: AdamW, peak rate {RATE:g}, {EPOCHS:g} epochs, "
        "accuracy on the test splits. `contract` is `--method auto --max-drop 0.01` with the original data, `nothing` "
        "is `--method auto` without any, with a head of its own; full and contract go on with the base's "
        "head. A drop is kept where it is at most .01 and the half-width of its interval. The share is of full "
        "fine-tuning's gain over the base. "
        f"{len(found)} of {len(PAIRS) * len(SEEDS)} pairs and seeds are finished. By `python -m experiments.bar`.",
        "",
        "| new task, seed | base | full: new | drop | contract: new | drop | kept | share "
        "| nothing: new | drop | share |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    groups = {f"{pair}, {seed}": [cell] for (pair, seed), cell in found.items()}
    groups |= {f"**{pair}**": of_pair for pair in PAIRS if (of_pair := [found[key] for key in found if key[0] == pair])}
    for name, of_group in groups.items():
        new = {how: f"{np.mean([cell.new[how] for cell in of_group]):.3f}" for how in HOWS}
        drop = {
            how: f"{np.mean([c.drop[how] for c in of_group]):+.3f} ±{np.mean([c.half[how] for c in of_group]):.3f}"
            for how in HOWS
        }
        kept = sum(cell.drop["contract"] <= margin + cell.half["contract"] for cell in of_group)
        lines.append(
            f"| {name} | {np.mean([cell.base for cell in of_group]):.3f} | {new['full']} | {drop['full']} | "
            f"{new['contract']} | {drop['contract']} | {kept} of {len(of_group)} | {share(of_group, 'contract'):.0%} | "
            f"{new['nothing']} | {drop['nothing']} | {share(of_group, 'nothing'):.0%} |"
        )
    return "\n".join([*lines, "", *verdicts(found, margin)]) + "\n"


def verdicts(found: dict[tuple[str, int], Cell], margin: float) -> list[str]:
    """Which part of the bar is reached."""
    every = list(found.values())
    kept = sum(cell.drop["contract"] <= margin + cell.half["contract"] for cell in every)
    lines = [f"- drop within {margin:g} and the half-width: {kept} of {len(every)}"]
    for how, least in (("contract", WITH), ("nothing", WITHOUT)):
        by_pair = {p: share([cell for (q, _), cell in found.items() if q == p], how) for p, _ in found}
        told = ", ".join(f"{pair} {value:.1%}" for pair, value in by_pair.items())
        reached = "reached" if min(by_pair.values()) >= least else "NOT reached"
        lines.append(
            f"- {how}: {share(every, how):.1%} of full fine-tuning's mean gain over all ({told}); at least "
            f"{least:.0%} of each asked for: {reached}"
        )
    return lines


def checked(experiment: Experiment, folder: Path, record: dict) -> dict:
    """The record of a run, with the original's change from `fft check` where the run watched none."""
    if experiment.original:
        return record
    settings = CheckSettings(experiment.model, str(folder / "model"), SeveralData.of(Data(ORIGINAL)), max_drop=MAX_DROP)
    return record | {"original": check(settings).record["original"][0]["change"]}


def main(out: Path = Path("runs/bar")) -> None:
    """Run what experiments/results/bar.json does not hold; after every run bar.md says what there is."""
    for records in kept_runs(experiments(), out, RESULTS / "bar.json", checked):
        if found := cells(records):
            replace_file(RESULTS / "bar.md", markdown(found).encode())


if __name__ == "__main__":
    tyro.cli(main)
