"""How often `fft check` passes a model whose true drop equals the accepted one, and how often it decides at all.

    python -m experiments.noninferiority          writes experiments/results/noninferiority.md; about a minute

The share of newly wrong examples exceeds that of newly right ones by the margin, so the true drop is the margin: at
most 2.5 % of such test sets should pass, and at most 2.5 % fail. For a model whose true drop is 0: how many test sets
of the size `needed` are decided.

Resampling n examples, of which `lost` are newly wrong and `gained` newly right, amounts to drawing two counts from a
multinomial. `interval` draws these instead of the examples, which makes thousands of sets affordable.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import tyro

from fft.stats.intervals import LEVEL, RESAMPLES, Change, unseen_rate
from fft.stats.retention import verdict

RESULT = Path(__file__).parent / "results" / "noninferiority.md"
SETS = 4_000
NORMAL = 1.96
HEADER = """| rows | accepted drop | newly wrong | newly right | differing rows | pass | fail | undecided |
|---:|---:|---:|---:|---:|---:|---:|---:|"""
PAGE = """# How often a verdict is wrong, and how often there is one

Accuracy, {0:,} simulated test sets a line. By `python -m experiments.noninferiority`.

The true drop is the accepted one. At most 2.5 % should pass, and at most 2.5 % fail:

{header}
{1}

The true drop is 0. The rows are what `needed` says on average, z² · (share of differing rows) / margin², then twice and
four times as many:

{header}
{2}
"""
SIZES, MARGINS, RIGHT = (100, 300, 1_000, 3_000), (0.01, 0.03), (0.0, 0.02, 0.1)


def interval(rng: np.random.Generator, n: int, lost: int, gained: int) -> Change:
    """Return the `paired_change` of n examples with `lost` newly wrong and `gained` newly right ones, without p."""
    drawn = rng.multinomial(n, [lost / n, gained / n, 1 - (lost + gained) / n], RESAMPLES)
    ends = np.quantile((drawn[:, 1] - drawn[:, 0]) / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    change, floor = (gained - lost) / n, unseen_rate(n)
    low, high = min(ends[0], change - floor), max(ends[1], change + floor)
    return Change("accuracy", 1.0, 1.0 + change, change, float(low), float(high), n, 1.0, lost + gained)


def outcomes(rng: np.random.Generator, n: int, wrong: float, right: float, margin: float) -> Counter:
    """Count the outcomes of SETS simulated sets of n examples with these shares of newly wrong and right ones."""
    counts, known = Counter(), {}
    for lost, gained, _ in rng.multinomial(n, [wrong, right, 1 - wrong - right], SETS):
        if (lost, gained) not in known:
            known[lost, gained] = verdict(interval(rng, n, lost, gained), margin).outcome
        counts[known[lost, gained]] += 1
    return counts


def row(n: int, margin: float, wrong: float, right: float, rng: np.random.Generator) -> str:
    """Return a row of either table."""
    counts = outcomes(rng, n, wrong, right, margin)
    shares = " | ".join(f"{100 * counts[name] / SETS:.1f} %" for name in ("pass", "fail", "undecided"))
    rates = f"{100 * wrong:g} % | {100 * right:g} % | {n * (wrong + right):,.0f}"
    return f"| {n:,} | {margin:g} | {rates} | {shares} |"


def main() -> None:
    """Simulate and write the two tables."""
    from fft.disk.files import replace_file

    rng = np.random.default_rng(0)
    at_the_margin = [row(n, margin, right + margin, right, rng) for n in SIZES for margin in MARGINS for right in RIGHT]
    without_a_drop = [
        row(times * round(NORMAL**2 * 2 * rate / margin**2), margin, rate, rate, rng)
        for rate, margin in ((0.01, 0.01), (0.05, 0.01), (0.05, 0.03))
        for times in (1, 2, 4)
    ]
    text = PAGE.format(SETS, "\n".join(at_the_margin), "\n".join(without_a_drop), header=HEADER)
    replace_file(RESULT, text.encode())


if __name__ == "__main__":
    tyro.cli(main)
