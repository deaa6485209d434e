"""The parts of a model, models with some parts exchanged, and the predicted loss of a changed part."""

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
    "norms": r"layers/\d+/\w+_norm(_after)?/.*",
}


class Part(NamedTuple):
    """Some leaves of a tree: a name, the pattern that matches exactly them, and their paths."""

    name: str
    pattern: str
    paths: tuple[str, ...]


class Move(NamedTuple):
    """How some leaves changed from θ* to θ."""

    moved: bool
    """whether any value differs"""
    squares: float
    """Σ (θ − θ*)²"""
    size: float
    """Σ θ*²"""
    predicted: float
    """½ Σ F ⊙ (θ − θ*)², the predicted rise of the loss in nats"""

    @classmethod
    def of(cls, moves: Iterable["Move"]) -> "Move":
        """Return the move of several leaves together."""
        moved, *sums = zip(*moves, strict=True)
        return cls(any(moved), *map(sum, sums))

    @property
    def distance(self) -> float:
        """The relative distance ‖θ − θ*‖ / ‖θ*‖."""
        return math.sqrt(self.squares / self.size) if self.size else (math.inf if self.moved else 0.0)


class Step(NamedTuple):
    """A part that is put back in addition to those of earlier steps, and the resulting score and loss."""

    part: Part
    score: float
    loss: float


def layers_of(params: Params, blocks: int) -> list[Part]:
    """Return the layers from the bottom up: embeddings, each block, the modules above, each head; they cover all
    leaves.
    """
    roots: dict[str, set[str]] = {}
    for path in sorted(flatten(params), key=lambda path: (depth_of(path, blocks), path.startswith("heads/"))):
        size = 2 if path.startswith(("layers/", "heads/")) else 1
        roots.setdefault(place_of(path)[0], set()).add("/".join(path.split("/")[:size]))
    return [_part(name, f"{_either(map(re.escape, sorted(paths)))}/.*", params) for name, paths in roots.items()]


def roles_of(params: Params) -> list[Part]:
    """Return three parts: the attention of all blocks, their MLPs, and their norms."""
    return [_part(name, pattern, params) for name, pattern in ROLES.items()]


def _part(name: str, pattern: str, params: Params) -> Part:
    return Part(name, pattern, tuple(flatten(select(params, pattern))))


def pattern_of(parts: Sequence[Part]) -> str:
    """Return one pattern that matches the leaves of these layers and no others, for `--freeze.pattern`."""
    return _either(part.pattern.removesuffix("/.*") for part in parts) + "/.*"


def _either(patterns: Iterable[str]) -> str:
    first, *more = patterns
    return f"({'|'.join([first, *more])})" if more else first


def exchanged(tree: Params, other: Params, parts: Iterable[Part]) -> Params:
    """Return `tree` with the leaves of some parts replaced by those of `other`; arrays are not copied."""
    leaves = flatten(other)
    return overlay(tree, unflatten({path: leaves[path] for part in parts for path in part.paths}))


def moves(fisher: Params, base: Params, tuned: Params) -> dict[str, Move]:
    """Return how every leaf moved, by path; `predicted` is the second-order rise of the loss if only that leaf moves.

    At a minimum of the mean loss the first-order term vanishes, and if the model's probabilities are the true ones, F
    is the diagonal of the expected Hessian; interactions between parameters are left out. EWC penalises this quantity.

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
    """Put back one part after the other until the score is at least `enough` or none is left, and return the steps.

    `score(parts)` returns (score, loss) of the model in which these parts are put back; a higher score is better. Each
    step takes the part with the best score; of equals the one with the lowest loss, then the first. nan is the worst
    score.
    """
    steps: list[Step] = []
    remaining = list(parts)
    while remaining and not (steps and steps[-1].score >= enough):
        chosen = [step.part for step in steps]
        tried = [Step(part, *score([*chosen, part])) for part in remaining]
        steps.append(max(tried, key=_rank))
        remaining.remove(steps[-1].part)
    return steps


def _rank(step: Step) -> tuple[float, float]:
    score, negative_loss = (-math.inf if value != value else round(value, 9) for value in (step.score, -step.loss))
    return score, negative_loss
