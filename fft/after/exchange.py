"""The parts of a model, models in which some parts are another model's, and what a changed part should cost."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.tree import Params, depth_of, flatten, overlay, select, unflatten
from fft.fisher.information import place_of

ROLES = {
    "attention": r"layers/\d+/attention/.*",
    "mlp": r"layers/\d+/mlp/.*",
    "norms": r"layers/\d+/\w+_norm/.*",
}


class Part(NamedTuple):
    """Some leaves of a tree: what they are called, the pattern that matches just them, and their paths."""

    name: str
    pattern: str
    paths: tuple[str, ...]


class Move(NamedTuple):
    """How some leaves moved: whether at all, Σ (θ − θ*)², Σ θ*², and ½ Σ F ⊙ (θ − θ*)² in nats."""

    moved: bool
    squares: float
    size: float
    predicted: float

    @classmethod
    def of(cls, moves: Iterable["Move"]) -> "Move":
        """Of several leaves together."""
        moved, *sums = zip(*moves, strict=True)
        return cls(any(moved), *map(sum, sums))

    @property
    def distance(self) -> float:
        """‖θ − θ*‖ / ‖θ*‖"""
        return math.sqrt(self.squares / self.size) if self.size else (math.inf if self.moved else 0.0)


class Step(NamedTuple):
    """A part that is put back beside those of the steps before it, and the score and loss that this leads to."""

    part: Part
    score: float
    loss: float


def layers_of(params: Params, blocks: int) -> list[Part]:
    """The embeddings, each block, what is above them, and each head, from the bottom up; every leaf is in one."""
    roots: dict[str, set[str]] = {}
    for path in sorted(flatten(params), key=lambda path: (depth_of(path, blocks), path.startswith("heads/"))):
        size = 2 if path.startswith(("layers/", "heads/")) else 1
        roots.setdefault(place_of(path)[0], set()).add("/".join(path.split("/")[:size]))
    return [_part(name, f"{_either(map(re.escape, sorted(found)))}/.*", params) for name, found in roots.items()]


def roles_of(params: Params) -> list[Part]:
    """The attention of all blocks, their MLPs, and their norms."""
    return [_part(name, pattern, params) for name, pattern in ROLES.items()]


def _part(name: str, pattern: str, params: Params) -> Part:
    return Part(name, pattern, tuple(flatten(select(params, pattern))))


def pattern_of(parts: Sequence[Part]) -> str:
    """One pattern that matches the leaves of these layers and no others, for `--freeze.pattern`."""
    return _either(part.pattern.removesuffix("/.*") for part in parts) + "/.*"


def _either(patterns: Iterable[str]) -> str:
    one, *more = patterns
    return f"({'|'.join([one, *more])})" if more else one


def exchanged(tree: Params, other: Params, parts: Iterable[Part]) -> Params:
    """`tree` with the leaves of some parts taken from `other`, bit for bit; nothing is copied."""
    leaves = flatten(other)
    return overlay(tree, unflatten({path: leaves[path] for part in parts for path in part.paths}))


def moves(fisher: Params, base: Params, tuned: Params) -> dict[str, Move]:
    """How every leaf moved. ½ Σ F ⊙ (θ − θ*)² is by how much the loss rises, to second order, had only it moved.

    At a minimum of the mean loss the first order vanishes, and where the model's probabilities are the true ones F is
    the expected Hessian; its diagonal leaves out what parameters do together. It is what EWC holds down.

    Reference: LeCun et al. 1989 (Optimal brain damage), equation 4; with the Fisher: Kirkpatrick et al. 2017, arXiv
    1612.00796, equation 3.
    """
    weights, new = flatten(fisher), flatten(tuned)

    def of_leaf(path: str, old: jax.Array) -> Move:
        squares = jnp.square(new[path] - old)
        sums = (squares.sum(), jnp.square(old).sum(), 0.5 * jnp.sum(weights[path] * squares))
        return Move(not np.array_equal(old, new[path]), *map(float, sums))

    return {path: of_leaf(path, old) for path, old in flatten(base).items()}


def put_back_greedily(
    parts: Sequence[Part], score: Callable[[Sequence[Part]], tuple[float, float]], enough: float
) -> list[Step]:
    """Parts put back one after the other until the score is `enough` or none is left.

    `score(parts)` is (score, loss) of the model in which these are put back, + is better in the score. Each step takes
    the part that leads to the best score; of equals the one with the lower loss, and then the first. A score that is
    no number is the worst.
    """
    steps: list[Step] = []
    left = list(parts)
    while left and not (steps and steps[-1].score >= enough):
        chosen = [step.part for step in steps]
        tried = [Step(part, *score([*chosen, part])) for part in left]
        steps.append(max(tried, key=_worth))
        left.remove(steps[-1].part)
    return steps


def _worth(step: Step) -> tuple[float, float]:
    score, kept = (-math.inf if value != value else round(value, 9) for value in (step.score, -step.loss))
    return score, kept
