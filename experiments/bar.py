"""The bar: preserve movie reviews with `--max-drop 0.01` and no other setting, and measure the new task's gain.

    python -m experiments.bar --out runs/bar         runs what is missing, safe to kill and repeat, and writes
                                                     experiments/results/bar.json and bar.md

Three new tasks, each with full fine-tuning (full), with the choice of `--method auto` given the original data under
the contract (contract), and with its choice given neither original data nor other texts (nothing). Test splits are
scored once, at the end. The gain is the new test score minus the base's; its share is relative to full fine-tuning,
mean over seeds. Without original data, the drop is measured afterwards by `fft check`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console

from experiments.article import LAST, RESULTS
from experiments.base import movie_base
from experiments.cached import cached_runs
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
SEEDS = (0, 1, 2)  # more seeds work as well
MAX_DROP, RATE, EPOCHS = "0.01", 1e-4, 3.0
WITH, WITHOUT = 0.98, 0.85
"""the required shares of full fine-tuning's gain, with original data and without"""
NAME = "{}-{}-seed{}"


class Cell(NamedTuple):
    """Test scores of a new task and seed by run, and drops of the original with half their 95 % interval."""

    base: float
    new: dict[str, float]
    drop: dict[str, float]
    half: dict[str, float]

    def gain(self, how: str) -> float:
        """Return the gain of the new score over the base's."""
        return self.new[how] - self.base


def experiments() -> dict[str, Experiment]:
    """Return every pair and seed, seed by seed, so that an interrupted sweep has complete seeds."""
    base, original = str(movie_base(Console(stderr=True))), Data(ORIGINAL)
    optim = Optim(lr=RATE, epochs=EPOCHS)
    constrained, unconstrained = (
        choose(original_data, unlabelled=False, head=True).chain() for original_data in (True, False)
    )
    by_name = {}
    for seed in SEEDS:
        for pair, source in PAIRS.items():
            new, contract = Data(source), Retention(max_drop=MAX_DROP)
            of_pair = {
                "full": Experiment(base, new, original, Full(), optim, LAST, head="shared", seed=seed),
                "contract": Experiment(base, new, original, constrained, optim, contract, head="shared", seed=seed),
                "nothing": Experiment(base, new, (), unconstrained, optim, LAST, seed=seed),
            }
            by_name |= {NAME.format(pair, how, seed): experiment for how, experiment in of_pair.items()}
    return by_name


def cells(records: dict[str, dict]) -> dict[tuple[str, int], Cell]:
    """Return the pairs and seeds whose three runs are finished."""
    finished = {}
    for pair in PAIRS:
        for seed in SEEDS:
            runs = {how: records.get(NAME.format(pair, how, seed)) for how in HOWS}
            if all(runs.values()):
                changes = {how: Change(**run["original"]) for how, run in runs.items()}
                finished[pair, seed] = Cell(
                    runs["full"]["new"]["before"],
                    {how: run["new"]["after"] for how, run in runs.items()},
                    {how: -change.change for how, change in changes.items()},
                    {how: (change.high - change.low) / 2 for how, change in changes.items()},
                )
    return finished


def share(group: list[Cell], how: str) -> float:
    """Return the mean gain as a share of full fine-tuning's."""
    return float(np.mean([cell.gain(how) for cell in group]) / np.mean([cell.gain("full") for cell in group]))


def markdown(finished: dict[tuple[str, int], Cell]) -> str:
    """Return the table of every pair and seed, the means, and whether the bar is reached."""
    margin = float(MAX_DROP)
    lines = [
        "# The bar: `--max-drop 0.01` and nothing else",
        "",
        f"MiniLM trained on movie snippets, then on a new domain: AdamW, peak rate {RATE:g}, {EPOCHS:g} epochs, "
        "accuracy on the test splits. `contract` is `--method auto --max-drop 0.01` with the original data, `nothing` "
        "is `--method auto` without any, with a head of its own; full and contract go on with the base's "
        "head. A drop is kept where it is at most .01 and the half-width of its interval. The share is of full "
        "fine-tuning's gain over the base. "
        f"{len(finished)} of {len(PAIRS) * len(SEEDS)} pairs and seeds are finished. By `python -m experiments.bar`.",
        "",
        "| new task, seed | base | full: new | drop | contract: new | drop | kept | share "
        "| nothing: new | drop | share |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    groups = {f"{pair}, {seed}": [cell] for (pair, seed), cell in finished.items()}
    groups |= {
        f"**{pair}**": of_pair for pair in PAIRS if (of_pair := [finished[key] for key in finished if key[0] == pair])
    }
    for name, of_group in groups.items():
        new = {how: f"{np.mean([cell.new[how] for cell in of_group]):.3f}" for how in HOWS}
        drop = {
            how: f"{np.mean([c.drop[how] for c in of_group]):+.3f} ±{np.mean([c.half[how] for c in of_group]):.3f}"
            for how in HOWS
        }
        within = sum(cell.drop["contract"] <= margin + cell.half["contract"] for cell in of_group)
        lines.append(
            f"| {name} | {np.mean([cell.base for cell in of_group]):.3f} | {new['full']} | {drop['full']} | "
            f"{new['contract']} | {drop['contract']} | {within} of {len(of_group)} | "
            f"{share(of_group, 'contract'):.0%} | {new['nothing']} | {drop['nothing']} | "
            f"{share(of_group, 'nothing'):.0%} |"
        )
    return "\n".join([*lines, "", *verdicts(finished, margin)]) + "\n"


def verdicts(finished: dict[tuple[str, int], Cell], margin: float) -> list[str]:
    """Return which parts of the bar are reached."""
    all_cells = list(finished.values())
    within = sum(cell.drop["contract"] <= margin + cell.half["contract"] for cell in all_cells)
    lines = [f"- drop within {margin:g} and the half-width: {within} of {len(all_cells)}"]
    for how, least in (("contract", WITH), ("nothing", WITHOUT)):
        by_pair = {p: share([cell for (q, _), cell in finished.items() if q == p], how) for p, _ in finished}
        of_pairs = ", ".join(f"{pair} {value:.1%}" for pair, value in by_pair.items())
        reached = "reached" if min(by_pair.values()) >= least else "NOT reached"
        lines.append(
            f"- {how}: {share(all_cells, how):.1%} of full fine-tuning's mean gain over all ({of_pairs}); at least "
            f"{least:.0%} of each asked for: {reached}"
        )
    return lines


def checked(experiment: Experiment, folder: Path, record: dict) -> dict:
    """Return the record of a run, with the original's change from `fft check` if the run had no original data."""
    if experiment.original:
        return record
    settings = CheckSettings(experiment.model, str(folder / "model"), SeveralData.of(Data(ORIGINAL)), max_drop=MAX_DROP)
    return record | {"original": check(settings).record["original"][0]["change"]}


def main(out: Path = Path("runs/bar")) -> None:
    """Run what experiments/results/bar.json lacks; update bar.md after every run."""
    for records in cached_runs(experiments(), out, RESULTS / "bar.json", checked):
        if finished := cells(records):
            replace_file(RESULTS / "bar.md", markdown(finished).encode())


if __name__ == "__main__":
    tyro.cli(main)
