"""What the contract adds to `kl`: the multiplier's floor at 1 against 1e-3, and `kl` at strength 1 without a contract.

    python -m experiments.floor --out runs/floor     runs what is missing, safe to kill and repeat, and writes
                                                     experiments/results/floor.json and floor.md

The pairs, seeds and settings of experiments/bar.py, whose runs with full fine-tuning are read from bar.json. The floor
is chosen by validation rows: of the two, the one with the greater mean gain of the new task among those that keep the
original within the budget. For nyt also what could be had at all, one seed: joint training (replay with 2 original rows
a new one) and `kl` for twice the epochs.
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
from experiments.kept import FIELDS, kept_runs
from fft.after.mergeable import load_sides
from fft.commands.demo import ORIGINAL
from fft.disk.files import replace_file
from fft.evaluate.heldout import HeldOut
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import KL, Method, Replay
from fft.stats.intervals import Change
from fft.training import dual

FLOORS = {"floor 1": 1.0, "floor 1e-3": 1e-3}
PLAIN = "kl"
HOWS = (*FLOORS, PLAIN)
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
    """on the test rows, as the two above"""
    drop: float
    half: float
    """of the drop's 95 % interval"""
    gained: dict[str, float]
    """{"original", "new"}: what validation rows gained over the base"""
    strength: float
    """by which the pull to the base was multiplied at the end"""

    @property
    def within(self) -> bool:
        """Whether validation rows keep the budget."""
        return -self.gained["original"] <= float(bar.MAX_DROP)


def experiments() -> dict[str, dict[str, Experiment]]:
    """{how: experiments by name}, each seed by seed; of the contract one set a floor, which no setting says."""
    base, original = str(movie_base(Console(stderr=True))), Data(ORIGINAL)
    optim, held = Optim(lr=bar.RATE, epochs=bar.EPOCHS), Retention(max_drop=bar.MAX_DROP)

    def one(pair: str, method: Method, seed: int, retention: Retention, optim: Optim = optim) -> Experiment:
        return Experiment(base, Data(bar.PAIRS[pair]), original, method, optim, retention, head="shared", seed=seed)

    found = {
        how: {
            bar.NAME.format(pair, how, seed): one(pair, KL(), seed, LAST if how == PLAIN else held)
            for seed in bar.SEEDS
            for pair in bar.PAIRS
        }
        for how in HOWS
    }
    found["ceilings"] = {
        bar.NAME.format(CEILING, how, 0): one(CEILING, method, 0, LAST, Optim(lr=bar.RATE, epochs=epochs))
        for how, (method, epochs) in CEILINGS.items()
    }
    return found


def validated(experiment: Experiment, folder: Path, record: dict) -> dict:
    """The record with what the kept model gained on all validation rows of both tasks."""
    (original,) = experiment.original
    sides = load_sides(experiment.model, str(folder), original, experiment.new, None, None, None)
    rows = HeldOut(sides.tuned.model, sides.data)
    before, after = rows.scores(sides.base), rows.scores(sides.tuned.params)
    return record | {"validated": {name: after[name] - before[name] for name in after}}


def cells(records: dict[str, dict]) -> dict[str, dict[tuple[str, int], Cell]]:
    """{how: finished runs by pair and seed}."""
    full = json.loads((RESULTS / "bar.json").read_text(encoding="utf-8"))
    found: dict[str, dict[tuple[str, int], Cell]] = {}
    for how in (*HOWS, *CEILINGS):
        for pair in bar.PAIRS:
            for seed in bar.SEEDS:
                if run := records.get(bar.NAME.format(pair, how, seed)):
                    whole, change = full[bar.NAME.format(pair, "full", seed)]["new"], Change(**run["original"])
                    found.setdefault(how, {})[pair, seed] = Cell(
                        run["new"]["before"],
                        whole["after"],
                        run["new"]["after"],
                        -change.change,
                        (change.high - change.low) / 2,
                        run["validated"],
                        1.0 if run["contract"] is None else run["contract"]["strength"],
                    )
    return found


def share(found: list[Cell]) -> float:
    """The mean gain as a share of full fine-tuning's, test rows."""
    return float(np.mean([cell.new - cell.base for cell in found]) / np.mean([cell.full - cell.base for cell in found]))


HEADER = (
    "| new task | how | runs | full: new | new | drop | kept | share of full's gain | validation: new gained "
    "| original lost | within | last m |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def line(pair: str, how: str, found: list[Cell]) -> str:
    """One row of the table: means over seeds."""

    def mean(values) -> float:
        return float(np.mean(list(values)))

    margin = float(bar.MAX_DROP)
    kept = sum(cell.drop <= margin + cell.half for cell in found)
    return (
        f"| {pair} | {how} | {len(found)} | {mean(c.full for c in found):.3f} | {mean(c.new for c in found):.3f} | "
        f"{mean(c.drop for c in found):+.4f} ±{mean(c.half for c in found):.3f} | {kept} of {len(found)} | "
        f"{share(found):.0%} | {mean(c.gained['new'] for c in found):+.4f} | "
        f"{-mean(c.gained['original'] for c in found):+.4f} | {sum(c.within for c in found)} of {len(found)} | "
        f"{mean(c.strength for c in found):.3g} |"
    )


def markdown(found: dict[str, dict[tuple[str, int], Cell]]) -> str:
    """Every pair, the means over all, and the ceilings."""
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
            if (of_pair := [cell for (name, _), cell in found.get(how, {}).items() if name == pair])
        ]
    lines += [line("**all**", how, list(found[how].values())) for how in HOWS if how in found]
    ceilings = [line(CEILING, how, list(found[how].values())) for how in CEILINGS if how in found]
    if ceilings:
        lines += ["", f"What can be had for {CEILING} at all, seed 0, without a contract:", "", *HEADER, *ceilings]
    return "\n".join(lines) + "\n"


def main(out: Path = Path("runs/floor")) -> None:
    """Run what experiments/results/floor.json does not hold; after every run floor.md says what there is."""
    asked, records = experiments(), {}
    for how in ("floor 1", PLAIN, "ceilings", "floor 1e-3"):
        with mock.patch.object(dual, "LEAST", FLOORS.get(how, dual.LEAST)):
            for made in kept_runs(asked[how], out, RESULTS / "floor.json", validated, (*FIELDS, "validated")):
                replace_file(RESULTS / "floor.md", markdown(cells(records | made)).encode())
        records |= made


if __name__ == "__main__":
    tyro.cli(main)
