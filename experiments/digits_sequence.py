"""Ten tasks one after the other: digits with ten orders of their pixels, one head, every method that holds something.

    python -m experiments.digits_sequence --out runs/digits_sequence      runs what is missing, safe to kill and
                                                         repeat, and writes experiments/results/digits_sequence.*

The first order is the digits' own. A method's strength is chosen by average accuracy on validation rows of the first
seed; the table is on test rows of all seeds. Methods that read original rows read them from a memory of as many rows as
one task has, drawn evenly from all earlier tasks. `joint` is the upper bound: all ten tasks at once.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro

from experiments.article import RESULTS, spread
from experiments.digits_fronts import RATE, SEEDS, STEPS, Tried, tried
from experiments.fisher_digits import Split, splits
from experiments.kept import kept
from experiments.perceptron import MODEL, Trained, accuracy, train
from fft.disk.files import replace_file
from fft.methods import Full
from fft.report.drawing import save, styled, svg
from fft.report.front import looks
from fft.report.fronts import HEIGHT, WIDTH
from fft.stats.transfer import average_accuracy, backward_transfer, forgetting, forward_transfer

TASKS = 10


class Sequence(NamedTuple):
    """The rows of every task by split, and what a memory holds of the tasks before one."""

    parts: list[dict[str, Split]]
    seed: int

    def memory(self, task: int) -> Split:
        """As many training rows as one task has, evenly from the tasks before `task`, drawn by the seed."""
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
    """Ten orders of the pixels, the first their own."""
    parts = splits(seed)
    orders = [np.arange(64), *(np.random.default_rng([seed, task]).permutation(64) for task in range(1, TASKS))]
    return Sequence([{name: Split(p.x[:, order], p.label) for name, p in parts.items()} for order in orders], seed)


def matrix(one: Tried, tasks: Sequence, split: str) -> np.ndarray:
    """R [T + 1, T] of a method on a split's rows; the first task is learned by full fine-tuning with its rate."""
    keys = jax.random.split(jax.random.key(tasks.seed), TASKS + 1)
    state = Trained(MODEL.init(keys[0]))
    rows = [[accuracy(state.params, part[split]) for part in tasks.parts]]
    for task, part in enumerate(tasks.parts):
        first = task == 0
        method = one.method if not first or one.front == "si" else Full()
        memory = None if first else tasks.memory(task)
        state = train(state, method, part["train"], memory, RATE if first else one.lr, STEPS, keys[task + 1])
        rows.append([accuracy(state.params, other[split]) for other in tasks.parts])
    return np.array(rows)


def joint(tasks: Sequence, split: str) -> float:
    """The mean accuracy of one training on the rows of all tasks, with as many steps as the sequence has."""
    start = Trained(MODEL.init(jax.random.key(tasks.seed)))
    every = Split(*map(np.concatenate, zip(*(part["train"] for part in tasks.parts), strict=True)))
    state = train(start, Full(), every, None, RATE, STEPS * TASKS, jax.random.key(tasks.seed))
    return float(np.mean([accuracy(state.params, part[split]) for part in tasks.parts]))


def chosen(out: Path) -> Iterator[tuple[Tried, np.ndarray]]:
    """Every method at its best strength on validation rows of the first seed, with R [seeds, T + 1, T] on test rows."""
    sequences = [sequence(seed) for seed in SEEDS]

    def scored(one: Tried, tasks: Sequence, split: str) -> np.ndarray:
        path = out / f"{one.front}-{one.strength:g}-seed{tasks.seed}-{split}.json"
        return np.array(kept(path, partial(matrix, one, tasks, split)))

    for front in dict.fromkeys(one.front for one in tried()):
        at = [one for one in tried() if one.front == front]
        scores = [average_accuracy(scored(one, sequences[0], "validation")) for one in at]
        best = at[int(np.argmax(scores))]
        yield best, np.stack([scored(best, tasks, "test") for tasks in sequences])


def markdown(found: list[tuple[Tried, np.ndarray]], upper: np.ndarray) -> str:
    """A row a method, by average accuracy."""
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
    for one, matrices in sorted(found, key=lambda pair: -average_accuracy(pair[1]).mean()):
        told = [
            spread(measure(matrices)) for measure in (average_accuracy, backward_transfer, forward_transfer, forgetting)
        ]
        lines.append(f"| {one.front} | {one.strength:g} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def draw(found: list[tuple[Tried, np.ndarray]], most: int = 8) -> None:
    """The mean accuracy on the tasks learned so far, after each task, of the best methods and of full fine-tuning."""
    import altair as alt

    ranked = sorted(found, key=lambda pair: -average_accuracy(pair[1]).mean())
    shown = [pair for at, pair in enumerate(ranked) if at < most - 1 or pair[0].front == "full"]
    rows = [
        {"name": one.front, "tasks": task, "accuracy": float(matrices[:, task, :task].mean())}
        for one, matrices in shown
        for task in range(1, TASKS + 1)
    ]
    pairs = [looks(number) for number in range(len(shown))]
    names = [one.front for one, _ in shown]
    colour = alt.Scale(domain=names, range=[colour for colour, _ in pairs])
    shape = alt.Scale(domain=names, range=[shape for _, shape in pairs])
    at = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("tasks:Q", title="tasks learned", axis=alt.Axis(tickCount=TASKS)),
        y=alt.Y("accuracy:Q", title="mean test accuracy on them", scale=alt.Scale(zero=False)),
        color=alt.Color("name:N", title=None, scale=colour),
        shape=alt.Shape("name:N", title=None, scale=shape),
    )
    title = alt.Title(
        [f"digits in ten orders of their pixels; means over {len(SEEDS)} seeds"], anchor="start", offset=12
    )
    layers = alt.layer(at.mark_line(strokeWidth=1.5, opacity=0.6), at.mark_point(size=70, filled=True, opacity=1))
    save(svg(styled(layers.properties(width=WIDTH, height=HEIGHT, title=title))), RESULTS / "digits_sequence")


def main(out: Path = Path("runs/digits_sequence")) -> None:
    """Train, score, write after every method."""
    upper = np.array(
        [kept(out / f"joint-seed{seed}.json", lambda s=seed: joint(sequence(s), "test")) for seed in SEEDS]
    )
    found = []
    for pair in chosen(out):
        found.append(pair)
        replace_file(RESULTS / "digits_sequence.md", markdown(found, upper).encode())
    draw(found)


if __name__ == "__main__":
    tyro.cli(main)
