"""EWC's λ by the estimator of the Fisher: handwritten digits, then the same digits with permuted pixels.

python -m experiments.fisher_estimators digits          writes experiments/results/fisher_digits.{md,svg,png}

A perceptron with two hidden layers learns digits (8 x 8 pixels, sklearn), then the permuted ones with EWC and the same
head. The seed determines the split, the permutation, the weights and every batch. Scores are on test rows; λ is chosen
by the mean of both accuracies on validation rows.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import spearmanr

from experiments.article import spread
from fft.core.batch import Array, States
from fft.core.network import outputs_of
from fft.core.tree import Params, flatten
from fft.fisher.diagonal import diagonal_fisher
from fft.methods import EWC, StepContext
from fft.tasks import Classify

SEEDS = tuple(range(5))
STRENGTHS = tuple(float(10**power) for power in np.arange(-1, 8.5, 0.5))
# estimators with the batch size of the Fisher pass, on which per-example estimators do not depend
PER_EXAMPLE, PER_BATCH, SIZES = ("exact", "mc", "empirical"), ("gnb", "batched"), (8, 32, 128)
ESTIMATORS = tuple((name, 32) for name in PER_EXAMPLE) + tuple((name, size) for name in PER_BATCH for size in SIZES)
WIDTH, CLASSES, SAMPLES = 64, 10, 1024
STEPS, BATCH, RATE = 400, 32, 1e-3
TASK = Classify("digits", tuple(str(digit) for digit in range(CLASSES)))


class Perceptron:
    """A perceptron: 64 pixels, two hidden layers of tanh, ten classes."""

    @staticmethod
    def states(params: Params, batch: Any, *, read: Any = ("pooled",), key: Any = None, layers: Any = ()) -> States:
        """Return the second hidden layer [B, D] for pixels x [B, 64]."""
        x = batch.x
        for name in ("0", "1"):
            x = jnp.tanh(x @ params["layers"][name]["kernel"] + params["layers"][name]["bias"])
        return States(x)

    @staticmethod
    def readout(params: Params, head: str, states: jax.Array, *, key: Any = None) -> jax.Array:
        """Return the logits [B, 10]."""
        return states @ params["heads"][head]["kernel"] + params["heads"][head]["bias"]

    @staticmethod
    def init(key: jax.Array) -> Params:
        """Return random weights of variance 1 / fan-in."""
        keys = jax.random.split(key, 3)

        def dense(key, fan_in, fan_out):
            return {"kernel": jax.random.normal(key, (fan_in, fan_out)) / fan_in**0.5, "bias": jnp.zeros(fan_out)}

        layers = {"0": dense(keys[0], 64, WIDTH), "1": dense(keys[1], WIDTH, WIDTH)}
        return {"layers": layers, "heads": {"digits": dense(keys[2], WIDTH, CLASSES)}}


class Split(NamedTuple):
    """Rows x [N, 64] and labels [N]."""

    x: np.ndarray
    label: np.ndarray


class Rows(NamedTuple):
    """A batch of rows x [B, 64]."""

    x: Array
    targets: Array
    weight: Array
    row: Array
    task: Array | None = None

    @classmethod
    def of(cls, split: Split, picked: Array) -> Self:
        """Return the rows at `picked`, int32 [B], all of weight 1."""
        return cls(split.x[picked], split.label[picked], np.ones(picked.shape, np.float32), picked)


def splits(seed: int) -> dict[str, Split]:
    """Return the train (60 %), validation and test rows of the digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    x, label = data.data[order].astype(np.float32) / 16, data.target[order].astype(np.int32)
    cuts = (len(x) * 3 // 5, len(x) * 4 // 5)
    parts = zip(np.split(x, cuts), np.split(label, cuts), strict=True)
    return dict(zip(("train", "validation", "test"), (Split(*part) for part in parts), strict=True))


def permuted(split: Split, seed: int) -> Split:
    """Return the rows with a seeded permutation of the pixels."""
    return Split(split.x[:, np.random.default_rng([seed, 1]).permutation(64)], split.label)


@partial(jax.jit, static_argnums=4)
def train(start: Params, aux: Params, split: Split, key: jax.Array, method: EWC | None) -> Params:
    """Take STEPS steps of Adam from `start`, with the method's penalty if there is a method."""
    tx = optax.adam(RATE)

    def loss(params, rows):
        batch = Rows.of(split, rows)
        nll = TASK.terms(outputs_of(Perceptron, params, batch), batch)
        return jnp.mean(nll) + (0.0 if method is None else method.penalty(StepContext(start, aux), params))

    def step(carry, key):
        params, state = carry
        gradient = jax.grad(loss)(params, jax.random.randint(key, (BATCH,), 0, len(split.label)))
        updates, state = tx.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, STEPS))[0][0]


@jax.jit
def accuracy(params: Params, split: Split) -> jax.Array:
    """Return the share of correct rows."""
    outputs = outputs_of(Perceptron, params, split)
    logits = outputs.read(TASK.name, outputs.pooled)
    return jnp.mean(jnp.argmax(logits, -1) == split.label)


def fisher_of(base: Params, split: Split, estimator: str, size: int, key: jax.Array) -> Params:
    """Return the diagonal Fisher over SAMPLES training rows."""
    batches = [Rows.of(split, np.arange(at, at + size, dtype=np.int32)) for at in range(0, SAMPLES, size)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning of `batched` that it is not the Fisher
        return diagonal_fisher(
            Perceptron, TASK, base, batches, key, estimator=estimator, way="vmapped", chunk=size
        ).diagonal


class Grid(NamedTuple):
    """The accuracies of every seed, estimator and λ, arrays [seeds, estimators, strengths]."""

    first: dict[str, np.ndarray]
    """by split, on the first task after learning the second"""
    second: dict[str, np.ndarray]
    trace: np.ndarray
    """[seeds, estimators], relative to exact"""
    rank: np.ndarray
    """[seeds, estimators], Spearman's correlation with exact"""
    before: np.ndarray
    """[seeds], test accuracy of the base on the first task"""


def grid() -> Grid:
    """Train with every seed, estimator and λ."""
    shape = (len(SEEDS), len(ESTIMATORS), len(STRENGTHS))
    first, second = ({name: np.zeros(shape) for name in ("validation", "test")} for _ in range(2))
    trace, rank, before = np.zeros(shape[:2]), np.zeros(shape[:2]), np.zeros(len(SEEDS))
    method = EWC(strength=1.0)
    for s, seed in enumerate(SEEDS):
        parts = splits(seed)
        others = {name: permuted(part, seed) for name, part in parts.items()}
        keys = jax.random.split(jax.random.key(seed), 4)
        base = train(Perceptron.init(keys[0]), {}, parts["train"], keys[1], None)
        before[s] = accuracy(base, parts["test"])
        exact = None
        for e, (estimator, size) in enumerate(ESTIMATORS):
            fisher = fisher_of(base, parts["train"], estimator, size, keys[2])
            numbers = np.concatenate([np.ravel(leaf) for leaf in flatten(fisher).values()])
            exact = numbers if exact is None else exact
            trace[s, e], rank[s, e] = numbers.sum() / exact.sum(), spearmanr(numbers, exact).statistic
            tuned = jax.vmap(
                lambda strength, base=base, fisher=fisher, other=others["train"], key=keys[3]: train(
                    base, {"fisher": fisher, "unit": strength}, other, key, method
                )
            )(jnp.asarray(STRENGTHS))
            for name in ("validation", "test"):
                first[name][s, e] = jax.vmap(partial(accuracy, split=parts[name]))(tuned)
                second[name][s, e] = jax.vmap(partial(accuracy, split=others[name]))(tuned)
    return Grid(first, second, trace, rank, before)


def at_matched(first: np.ndarray, second: np.ndarray, matched: float) -> float:
    """Interpolate the first task's accuracy between λ at accuracy `matched` on the second; nan if no λ reaches it.

    `first`, `second` [strengths] are ordered by increasing λ: apart from noise, the second falls and the first rises.
    """
    reach = np.flatnonzero(second >= matched)
    if not len(reach):
        return float("nan")
    at = reach[-1]
    if at + 1 == len(second):
        return float(first[at])
    share = (second[at] - matched) / max(second[at] - second[at + 1], 1e-9)
    return float(first[at] + share * (first[at + 1] - first[at]))


def label_of(estimator: str, size: int) -> str:
    """Return a label such as `mc`, or `batched, B = 32` if the batch size matters."""
    return f"{estimator}, B = {size}" if estimator in PER_BATCH else estimator


def write(runs: Grid, stem: Path) -> None:
    """Write the table and the picture."""
    from fft.disk.files import replace_file

    unpenalised = runs.second["test"][:, 0, 0].mean()  # exact at the smallest λ: next to no penalty
    target = unpenalised - 0.05
    combined = (runs.first["validation"] + runs.second["validation"]) / 2
    best = combined.argmax(axis=2)  # [seeds, estimators]
    lines = [
        "# EWC's λ by the estimator of the Fisher, on digits",
        "",
        f"Digits ({100 * runs.before.mean():.1f} % right on test), then permuted digits for {STEPS} steps of {BATCH} "
        f"with EWC and the same head; Fisher over {SAMPLES} rows; {len(STRENGTHS)} λ from {STRENGTHS[0]:g} to "
        f"{STRENGTHS[-1]:g}; {len(SEEDS)} seeds, mean ± standard deviation. Trace and Spearman's rank correlation are "
        "against `exact`. The best λ (median over seeds, and its range) is chosen on validation rows. Matched: the "
        f"first task's accuracy where the second's is {target:.3f}, .05 under that of nearly no penalty. By "
        "`python -m experiments.fisher_estimators digits`.",
        "",
        "| estimator | trace | rank | best λ | first | second | first, matched |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for e, (estimator, size) in enumerate(ESTIMATORS):
        chosen = np.array(STRENGTHS)[best[:, e]]
        scores = [
            np.array([tests["test"][s, e, best[s, e]] for s in range(len(SEEDS))])
            for tests in (runs.first, runs.second)
        ]
        matched = [at_matched(runs.first["test"][s, e], runs.second["test"][s, e], target) for s in range(len(SEEDS))]
        lines.append(
            f"| {label_of(estimator, size)} | {runs.trace[:, e].mean():.3g} | {runs.rank[:, e].mean():.2f} | "
            f"{np.median(chosen):.2g} ({chosen.min():.2g} to {chosen.max():.2g}) | "
            + " | ".join(spread(values) for values in (*scores, np.array(matched)))
            + " |"
        )
    stem.parent.mkdir(parents=True, exist_ok=True)
    replace_file(stem.with_suffix(".md"), ("\n".join(lines) + "\n").encode())
    _draw(runs, stem)


def _draw(runs: Grid, stem: Path) -> None:
    """Draw the mean of both accuracies over λ, with a line per estimator."""
    import altair as alt

    from fft.report.drawing import COLOURS, save, styled, svg

    both = (runs.first["test"] + runs.second["test"]).mean(axis=0) / 2
    names = [label_of(estimator, size) for estimator, size in ESTIMATORS]
    rows = [
        {"estimator": name, "strength": strength, "both": float(both[e, at])}
        for e, name in enumerate(names)
        for at, strength in enumerate(STRENGTHS)
    ]
    dashes = [[1, 0]] * 3 + [[6, 3]] * 3 + [[2, 2]] * 3
    colours = [*COLOURS[:3], *COLOURS[3:6], *COLOURS[3:6]]
    chart = (
        alt.Chart(alt.Data(values=rows), width=560, height=320)
        .mark_line()
        .encode(
            x=alt.X("strength:Q", scale=alt.Scale(type="log"), title="λ", axis=alt.Axis(format="~e", tickCount=10)),
            y=alt.Y("both:Q", scale=alt.Scale(zero=False), title="mean accuracy of both tasks on test"),
            color=alt.Color("estimator:N", sort=names, scale=alt.Scale(domain=names, range=colours), title="estimator"),
            strokeDash=alt.StrokeDash("estimator:N", sort=names, scale=alt.Scale(domain=names, range=dashes)),
        )
    )
    save(svg(styled(chart.properties(title=f"digits, then permuted digits: mean of {len(SEEDS)} seeds"))), stem)
