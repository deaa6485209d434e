"""Ten tasks in sequence: digits with ten pixel orders, one head, every method.

    python -m experiments.digits_sequence --out runs/digits_sequence      runs what is missing, safe to kill and
                                                         repeat, and writes experiments/results/digits_sequence.*

The first pixel order is the original one. A method's strength is chosen by average accuracy on validation rows of the
first seed; the table has test rows of all seeds. Methods that need original rows read a memory of one task's size,
sampled evenly from all earlier tasks. `joint` is the upper bound: all ten tasks at once.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro

from experiments.article import RESULTS, spread
from experiments.cached import cached
from experiments.digits_fronts import RATE, SEEDS, STEPS, Candidate, candidates
from experiments.fisher_digits import Split, splits
from experiments.perceptron import MODEL, Trained, accuracy, train
from fft.disk.files import replace_file
from fft.methods import Full
from fft.report.drawing import save, styled, svg
from fft.report.front import looks
from fft.report.fronts import HEIGHT, WIDTH
from fft.stats.transfer import average_accuracy, backward_transfer, forgetting, forward_transfer

TASKS = 10


class Sequence(NamedTuple):
    """The rows of every task by split, and the memory of earlier tasks."""

    parts: list[dict[str, Split]]
    seed: int

    def memory(self, task: int) -> Split:
        """Return a seeded sample of one task's size, evenly from the training rows of the tasks before `task`."""
        earlier = [part["train"] for part in self.parts[:task]]
        rng = np.random.default_rng([self.seed, task])
        size = len(earlier[0].label)
        counts = np.bincount(np.arange(size) % task, minlength=task)
        picked = [rng.permutation(size)[:count] for count in counts]
        return Split(
            *(
                np.concatenate([v[p] for v, p in zip(values, picked, strict=True)])
                for values in zip(*earlier, strict=True)
            )
        )


def sequence(seed: int) -> Sequence:
    """Return the tasks of ten pixel orders, the first being the original order."""
    parts = splits(seed)
    orders = [np.arange(64), *(np.random.default_rng([seed, task]).permutation(64) for task in range(1, TASKS))]
    return Sequence([{name: Split(p.x[:, order], p.label) for name, p in parts.items()} for order in orders], seed)


def matrix(candidate: Candidate, tasks: Sequence, split: str) -> np.ndarray:
    """Return R [T + 1, T] of a method on a split's rows; the first task uses full fine-tuning with RATE."""
    keys = jax.random.split(jax.random.key(tasks.seed), TASKS + 1)
    state = Trained(MODEL.init(keys[0]))
    rows = [[accuracy(state.params, part[split]) for part in tasks.parts]]
    for task, part in enumerate(tasks.parts):
        first = task == 0
        method = candidate.method if not first or candidate.front == "si" else Full()
        memory = None if first else tasks.memory(task)
        state = train(state, method, part["train"], memory, RATE if first else candidate.lr, STEPS, keys[task + 1])
        rows.append([accuracy(state.params, other[split]) for other in tasks.parts])
    return np.array(rows)


def joint(tasks: Sequence, split: str) -> float:
    """Return the mean accuracy after training on the rows of all tasks at once, with the steps of the sequence."""
    start = Trained(MODEL.init(jax.random.key(tasks.seed)))
    every = Split(*map(np.concatenate, zip(*(part["train"] for part in tasks.parts), strict=True)))
    state = train(start, Full(), every, None, RATE, STEPS * TASKS, jax.random.key(tasks.seed))
    return float(np.mean([accuracy(state.params, part[split]) for part in tasks.parts]))


def chosen(out: Path) -> Iterator[tuple[Candidate, np.ndarray]]:
    """Yield every method at its best strength on validation rows of the first seed, and R [seeds, T + 1, T] on test."""
    sequences = [sequence(seed) for seed in SEEDS]

    def scored(candidate: Candidate, tasks: Sequence, split: str) -> np.ndarray:
        path = out / f"{candidate.front}-{candidate.strength:g}-seed{tasks.seed}-{split}.json"
        return np.array(cached(path, partial(matrix, candidate, tasks, split)))

    for front in dict.fromkeys(candidate.front for candidate in candidates()):
        of_front = [candidate for candidate in candidates() if candidate.front == front]
        scores = [average_accuracy(scored(candidate, sequences[0], "validation")) for candidate in of_front]
        best = of_front[int(np.argmax(scores))]
        yield best, np.stack([scored(best, tasks, "test") for tasks in sequences])


def markdown(results: list[tuple[Candidate, np.ndarray]], upper: np.ndarray) -> str:
    """Return the table with a row per method, sorted by average accuracy."""
    lines = [
        "# Ten tasks in sequence",
        "",
        f"A perceptron with two hidden layers of 64 learns 8 x 8 digits in ten orders of their pixels, {STEPS} steps "
        f"of 32 each, one head; R[i, j] is the accuracy on task j after task i, on test rows; {len(SEEDS)} seeds, mean "
        "± standard deviation. The strength is the best of those in digits_fronts.md, by validation rows of the first "
        "seed. Rows of earlier tasks come from a memory of one task's size. All tasks at once: "
        f"{spread(upper)}. By `python -m experiments.digits_sequence`.",
        "",
        "| method | strength | average accuracy | backward transfer | forward transfer | forgetting |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for candidate, matrices in sorted(results, key=lambda pair: -average_accuracy(pair[1]).mean()):
        measures = [
            spread(measure(matrices)) for measure in (average_accuracy, backward_transfer, forward_transfer, forgetting)
        ]
        lines.append(f"| {candidate.front} | {candidate.strength:g} | {' | '.join(measures)} |")
    return "\n".join(lines) + "\n"


def draw(results: list[tuple[Candidate, np.ndarray]], most: int = 8) -> None:
    """Draw the mean accuracy on the tasks learned so far, after each task, of the best methods and full fine-tuning."""
    import altair as alt

    ranked = sorted(results, key=lambda pair: -average_accuracy(pair[1]).mean())
    shown = [pair for chart, pair in enumerate(ranked) if chart < most - 1 or pair[0].front == "full"]
    rows = [
        {"name": candidate.front, "tasks": task, "accuracy": float(matrices[:, task, :task].mean())}
        for candidate, matrices in shown
        for task in range(1, TASKS + 1)
    ]
    pairs = [looks(number) for number in range(len(shown))]
    names = [candidate.front for candidate, _ in shown]
    colour = alt.Scale(domain=names, range=[colour for colour, _ in pairs])
    shape = alt.Scale(domain=names, range=[shape for _, shape in pairs])
    chart = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("tasks:Q", title="tasks learned", axis=alt.Axis(tickCount=TASKS)),
        y=alt.Y("accuracy:Q", title="mean test accuracy on them", scale=alt.Scale(zero=False)),
        color=alt.Color("name:N", title=None, scale=colour),
        shape=alt.Shape("name:N", title=None, scale=shape),
    )
    title = alt.Title(
        [f"digits in ten orders of their pixels; means over {len(SEEDS)} seeds"], anchor="start", offset=12
    )
    layers = alt.layer(chart.mark_line(strokeWidth=1.5, opacity=0.6), chart.mark_point(size=70, filled=True, opacity=1))
    save(svg(styled(layers.properties(width=WIDTH, height=HEIGHT, title=title))), RESULTS / "digits_sequence")


def main(out: Path = Path("runs/digits_sequence")) -> None:
    """Train, score, and write the results after every method."""
    upper = np.array(
        [cached(out / f"joint-seed{seed}.json", lambda s=seed: joint(sequence(s), "test")) for seed in SEEDS]
    )
    results = []
    for pair in chosen(out):
        results.append(pair)
        replace_file(RESULTS / "digits_sequence.md", markdown(results, upper).encode())
    draw(results)


if __name__ == "__main__":
    tyro.cli(main)
