"""Every method's Pareto front on digits: learn digits with permuted pixels, preserve the original digits.

    python -m experiments.digits_fronts --out runs/digits_fronts      runs what is missing, safe to kill and repeat,
                                                                      and writes experiments/results/digits_fronts.*

A perceptron with two hidden layers learns the digits; from there each method learns the permuted ones with the same
head, at a few strengths. The seed determines the split, the permutation, the weights and every batch. The last step is
scored on test rows, without any selection. Excluded: prompt and prefix, which need tokens; norm, as the model has no
norm layer; and pseudo, which needs a masked language model.
"""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro

from experiments.article import RESULTS, spread
from experiments.cached import cached
from experiments.fisher_digits import Split, permuted, splits
from experiments.perceptron import MODEL, Trained, accuracy, train
from fft.disk.files import replace_file
from fft.methods import (
    AGEM,
    EWC,
    GPM,
    IA3,
    KL,
    L2SP,
    LPFT,
    MAS,
    OGD,
    SAM,
    SI,
    BitFit,
    Distill,
    DoRA,
    Freeze,
    Full,
    Layerwise,
    LoRA,
    LwF,
    Method,
    Replay,
    RsLoRA,
    Sparse,
    Unfreeze,
    Wise,
)
from fft.report.fronts import draw_fronts, fronts_markdown
from fft.stats.fronts import fronts

SEEDS, STEPS, RATE = (0, 1, 2), 400, 3e-3
HIGH = 0.85
"""a second comparison is among the methods that reach this new score"""
ADAPTED = "layers/.*"


class Candidate(NamedTuple):
    """A method at one strength."""

    front: str
    strength: float
    method: Method
    lr: float = RATE


def candidates() -> Iterator[Candidate]:
    """Yield every method at its strengths, or at several learning rates if it has no strength."""
    rates = {
        "full": (Full(), (3e-4, 1e-3, RATE, 1e-2)),
        "freeze": (Freeze(blocks=1), (3e-4, 1e-3, RATE, 1e-2)),
        "bitfit": (BitFit(), (1e-3, 1e-2, 3e-2, 1e-1)),
        "lora": (LoRA(targets=ADAPTED), (1e-3, RATE, 1e-2, 3e-2)),
        "rslora": (RsLoRA(targets=ADAPTED), (1e-3, RATE, 1e-2, 3e-2)),
        "dora": (DoRA(targets=ADAPTED), (1e-3, RATE, 1e-2, 3e-2)),
        "ia3": (IA3(targets=ADAPTED), (1e-3, 1e-2, 3e-2, 1e-1)),
    }
    for name, (method, of_method) in rates.items():
        yield from (Candidate(name, lr, method, lr) for lr in of_method)
    strengths = {
        "layerwise": (lambda s: Layerwise(decay=s), (0.1, 0.3, 0.6, 0.9)),
        "sparse": (lambda s: Sparse(share=s, way="vmapped"), (0.01, 0.03, 0.1, 0.3)),
        "unfreeze": (lambda s: Unfreeze(every=int(s)), (25, 75, 125, 175)),
        "lpft": (lambda s: LPFT(share=s), (0.1, 0.3, 0.6, 0.9)),
        "l2sp": (lambda s: L2SP(strength=s, head_strength=s), (0.01, 0.1, 1.0, 10.0)),
        "ewc": (lambda s: EWC(strength=s, way="vmapped"), (10.0, 100.0, 1e3, 1e4)),
        "mas": (lambda s: MAS(strength=s), (0.01, 0.1, 1.0, 10.0)),
        "si": (lambda s: SI(strength=s), (0.1, 1.0, 10.0, 100.0)),
        "ogd": (lambda s: OGD(directions=int(s)), (16, 64, 256, 1024)),
        "gpm": (lambda s: GPM(threshold=s), (0.8, 0.9, 0.95, 0.99)),
        "replay": (lambda s: Replay(strength=s, ratio=0.25), (0.3, 1.0, 3.0, 10.0)),
        "agem": (lambda s: AGEM(ratio=s), (0.25, 1.0, 4.0)),
        "kl": (lambda s: KL(strength=s, ratio=0.25), (0.3, 1.0, 3.0, 10.0)),
        "lwf": (lambda s: LwF(strength=s), (0.01, 0.1, 1.0, 10.0)),
        "distill": (lambda s: Distill(strength=s, ratio=0.25), (0.1, 1.0, 10.0, 100.0)),
        "wise": (lambda s: Full() + Wise(alpha=s), (0.2, 0.4, 0.6, 0.8)),
        "sam": (lambda s: SAM(rho=s), (0.02, 0.05, 0.2, 0.5)),
    }
    for name, (make, of_method) in strengths.items():
        yield from (Candidate(name, strength, make(strength)) for strength in of_method)


def record(candidate: Candidate, seed: int, before: dict[str, float], after: dict[str, float], rows: int) -> dict:
    """Return a run in the format of `fft.stats.fronts`."""
    changes = {task: {"metric": "accuracy", "before": before[task], "after": after[task], "n": rows} for task in before}
    settings = [{"name": candidate.front, "strength": candidate.strength}]
    return {"name": candidate.front, "experiment": {"method": settings, "seed": seed}, "history": [], **changes}


class Start(NamedTuple):
    """The start of every method for a seed: the rows of both tasks by split, the base, and the training key."""

    original: dict[str, Split]
    new: dict[str, Split]
    base: Trained
    key: jax.Array


@cache
def start(seed: int) -> Start:
    """Return the base of a seed, trained with SI, which records its statistics without affecting the training."""
    parts = splits(seed)
    others = {name: permuted(part, seed) for name, part in parts.items()}
    keys = jax.random.split(jax.random.key(seed), 3)
    base = train(Trained(MODEL.init(keys[0])), SI(), parts["train"], None, RATE, STEPS, keys[1])
    return Start(parts, others, base, keys[2])


def measured(candidate: Candidate, seed: int) -> dict:
    """Train a method at one strength from the seed's base and return its record."""
    at = start(seed)
    tests = {"original": at.original["test"], "new": at.new["test"]}
    tuned = train(at.base, candidate.method, at.new["train"], at.original["train"], candidate.lr, STEPS, at.key)
    before, after = (
        {task: accuracy(params, split) for task, split in tests.items()} for params in (at.base.params, tuned.params)
    )
    return record(candidate, seed, before, after, len(at.new["test"].label))


def markdown(runs: list[dict]) -> str:
    """Return the table of every method at every strength."""
    bases = {
        task: np.array([run[task]["before"] for run in runs[:: len(runs) // len(SEEDS)]])
        for task in ("original", "new")
    }
    lines = [
        "# The front of every method, digits -> permuted digits",
        "",
        "A perceptron with two hidden layers of 64 learned 8 x 8 digits (base: original "
        f"{spread(bases['original'])}, new {spread(bases['new'])}), then {STEPS} steps of 32 of the digits with "
        f"permuted pixels and the same head, AdamW at {RATE:g} where the strength is not the rate (full, freeze, "
        f"bitfit, lora, rslora, dora, ia3). Accuracy on {runs[0]['new']['n']} test rows after the last step; "
        f"{len(SEEDS)} seeds, mean ± standard deviation. By `python -m experiments.digits_fronts`.",
        "",
        "| method | strength | original | new |",
        "|---|---:|---:|---:|",
    ]
    for candidate in candidates():
        of = [
            r for r in runs if r["experiment"]["method"] == [{"name": candidate.front, "strength": candidate.strength}]
        ]
        original, new = (np.array([run[task]["after"] for run in of]) for task in ("original", "new"))
        lines.append(f"| {candidate.front} | {candidate.strength:g} | {spread(original)} | {spread(new)} |")
    return "\n".join(lines) + "\n"


def main(out: Path = Path("runs/digits_fronts")) -> None:
    """Train, score, and write the results."""
    runs = [
        cached(out / f"{candidate.front}-{candidate.strength:g}-seed{seed}.json", partial(measured, candidate, seed))
        for seed in SEEDS
        for candidate in candidates()
    ]
    all_fronts, matched = fronts(runs)
    high_fronts, high_matched = fronts([run for run in runs if _reaches(run["name"], runs)])
    table = markdown(runs) + "\n## All\n\n" + fronts_markdown(all_fronts, matched)
    table += f"\n## Those that reach {HIGH:g} with every seed\n\n" + fronts_markdown(high_fronts, high_matched)
    replace_file(RESULTS / "digits_fronts.md", table.encode())
    draw_fronts(high_fronts, high_matched, runs, RESULTS / "digits_fronts")


def _reaches(name: str, runs: list[dict]) -> bool:
    """Whether a method reaches the new score HIGH at some strength with every seed."""
    best = [max(r["new"]["after"] for r in runs if r["name"] == name and r["experiment"]["seed"] == s) for s in SEEDS]
    return min(best) >= HIGH


if __name__ == "__main__":
    tyro.cli(main)
