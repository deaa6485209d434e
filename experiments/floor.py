"""The effect of the contract on `kl`: the multiplier's floor at 1 or 1e-3, and `kl` at strength 1 without a contract.

    python -m experiments.floor --out runs/floor     runs what is missing, safe to kill and repeat, and writes
                                                     experiments/results/floor.json and floor.md

Pairs, seeds and settings are those of experiments/bar.py, whose runs with full fine-tuning are read from bar.json. The
floor is chosen on validation rows: the one with the larger mean gain of the new task while the original stays within
the budget. For nyt, also upper bounds with one seed: joint training (replay with 2 original rows per new one) and `kl`
for twice the epochs.
"""

import json
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import tyro
from rich.console import Console

from experiments import bar
from experiments.article import LAST, RESULTS
from experiments.base import movie_base
from experiments.cached import FIELDS, cached_runs
from fft.after.mergeable import load_sides
from fft.after.settings import RepairSettings
from fft.commands.demo import ORIGINAL
from fft.disk.files import replace_file
from fft.evaluate.heldout import HeldOut
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import KL, Method, Replay
from fft.stats.intervals import Change
from fft.training import dual

FLOORS = {"floor 1": 1.0, "floor 1e-3": 1e-3}
NO_CONTRACT = "kl"
HOWS = (*FLOORS, NO_CONTRACT)
CEILINGS = {
    "replay, ratio 2": (Replay(ratio=2.0), bar.EPOCHS),
    "kl, 6 epochs": (KL(), 2 * bar.EPOCHS),
}
CEILING = "nyt"


class Cell(NamedTuple):
    """A run beside full fine-tuning of the same pair and seed."""

    base: float
    full: float
    new: float
    """on the test rows, like the two above"""
    drop: float
    half: float
    """half the 95 % interval of the drop"""
    gained: dict[str, float]
    """{"original", "new"}: gain over the base on validation rows"""
    strength: float
    """multiplier of the method's strength at the end"""

    @property
    def within(self) -> bool:
        """Whether the drop on validation rows is within the budget."""
        return -self.gained["original"] <= float(bar.MAX_DROP)


def experiments() -> dict[str, dict[str, Experiment]]:
    """Return {how: experiments by name}, seed by seed; the floor is patched in `main`, as it is not a setting."""
    base, original = str(movie_base(Console(stderr=True))), Data(ORIGINAL)
    optim, contract = Optim(lr=bar.RATE, epochs=bar.EPOCHS), Retention(max_drop=bar.MAX_DROP)

    def of_pair(pair: str, method: Method, seed: int, retention: Retention, optim: Optim = optim) -> Experiment:
        return Experiment(base, Data(bar.PAIRS[pair]), original, method, optim, retention, head="shared", seed=seed)

    by_how = {
        how: {
            bar.NAME.format(pair, how, seed): of_pair(pair, KL(), seed, LAST if how == NO_CONTRACT else contract)
            for seed in bar.SEEDS
            for pair in bar.PAIRS
        }
        for how in HOWS
    }
    by_how["ceilings"] = {
        bar.NAME.format(CEILING, how, 0): of_pair(CEILING, method, 0, LAST, Optim(lr=bar.RATE, epochs=epochs))
        for how, (method, epochs) in CEILINGS.items()
    }
    return by_how


def validated(experiment: Experiment, folder: Path, record: dict) -> dict:
    """Return the record with the selected model's gains on all validation rows of both tasks."""
    (original,) = experiment.original
    sides = load_sides(RepairSettings(experiment.model, str(folder), original, experiment.new))
    rows = HeldOut(sides.tuned.model, sides.data)
    before, after = rows.scores(sides.base), rows.scores(sides.tuned.params)
    return record | {"validated": {name: after[name] - before[name] for name in after}}


def cells(records: dict[str, dict]) -> dict[str, dict[tuple[str, int], Cell]]:
    """Return {how: finished runs by pair and seed}."""
    full = json.loads((RESULTS / "bar.json").read_text(encoding="utf-8"))
    by_how: dict[str, dict[tuple[str, int], Cell]] = {}
    for how in (*HOWS, *CEILINGS):
        for pair in bar.PAIRS:
            for seed in bar.SEEDS:
                if run := records.get(bar.NAME.format(pair, how, seed)):
                    full_new, change = full[bar.NAME.format(pair, "full", seed)]["new"], Change(**run["original"])
                    by_how.setdefault(how, {})[pair, seed] = Cell(
                        run["new"]["before"],
                        full_new["after"],
                        run["new"]["after"],
                        -change.change,
                        (change.high - change.low) / 2,
                        run["validated"],
                        1.0 if run["contract"] is None else run["contract"]["strength"],
                    )
    return by_how


def share(group: list[Cell]) -> float:
    """Return the mean gain on test rows as a share of full fine-tuning's."""
    return float(np.mean([cell.new - cell.base for cell in group]) / np.mean([cell.full - cell.base for cell in group]))


HEADER = (
    "| new task | how | runs | full: new | new | drop | kept | share of full's gain | validation: new gained "
    "| original lost | within | last m |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def line(pair: str, how: str, group: list[Cell]) -> str:
    """Return one row of the table: means over seeds."""

    def mean(values) -> float:
        return float(np.mean(list(values)))

    margin = float(bar.MAX_DROP)
    within_budget = sum(cell.drop <= margin + cell.half for cell in group)
    return (
        f"| {pair} | {how} | {len(group)} | {mean(c.full for c in group):.3f} | {mean(c.new for c in group):.3f} | "
        f"{mean(c.drop for c in group):+.4f} ±{mean(c.half for c in group):.3f} | {within_budget} of {len(group)} | "
        f"{share(group):.0%} | {mean(c.gained['new'] for c in group):+.4f} | "
        f"{-mean(c.gained['original'] for c in group):+.4f} | {sum(c.within for c in group)} of {len(group)} | "
        f"{mean(c.strength for c in group):.3g} |"
    )


def markdown(by_how: dict[str, dict[tuple[str, int], Cell]]) -> str:
    """Return the table of every pair, the means over all, and the upper bounds."""
    lines = [
        "# The floor of the contract's multiplier, and `kl` without a contract",
        "",
        f"The runs of [bar.md](bar.md): MiniLM trained on movie snippets, then on a new domain with the base's head; "
        f"AdamW, peak rate {bar.RATE:g}, {bar.EPOCHS:g} epochs, accuracy. `floor` rows are `--method kl --max-drop "
        f"{bar.MAX_DROP}` whose multiplier m cannot fall below it; `kl` is `--method kl` at strength 1 without a "
        "contract, its last step. Drops are of the original's test rows, mean with the mean half-width of the 95 % "
        "interval; `kept`: at most the budget and the half-width; `within`: validation rows keep the budget. By "
        "`python -m experiments.floor`.",
        "",
        *HEADER,
    ]
    for pair in bar.PAIRS:
        lines += [
            line(pair, how, of_pair)
            for how in HOWS
            if (of_pair := [cell for (name, _), cell in by_how.get(how, {}).items() if name == pair])
        ]
    lines += [line("**all**", how, list(by_how[how].values())) for how in HOWS if how in by_how]
    ceilings = [line(CEILING, how, list(by_how[how].values())) for how in CEILINGS if how in by_how]
    if ceilings:
        lines += ["", f"What can be had for {CEILING} at all, seed 0, without a contract:", "", *HEADER, *ceilings]
    return "\n".join(lines) + "\n"


def main(out: Path = Path("runs/floor")) -> None:
    """Run what experiments/results/floor.json lacks; update floor.md after every run."""
    by_how, records = experiments(), {}
    for how in ("floor 1", NO_CONTRACT, "ceilings", "floor 1e-3"):
        with mock.patch.object(dual, "LEAST", FLOORS.get(how, dual.LEAST)):
            for finished in cached_runs(by_how[how], out, RESULTS / "floor.json", validated, (*FIELDS, "validated")):
                records |= finished
                replace_file(RESULTS / "floor.md", markdown(cells(records)).encode())


if __name__ == "__main__":
    tyro.cli(main)
