"""The merged models that a repair tries, and the choice among them by their scores."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.tree import Params, depth_of, flatten
from fft.merging.formulas import add_vectors, dropped, fisher_merge, shared, task_vector, trimmed
from fft.merging.furthest import furthest
from fft.stats.retention import SAME

STEPS = tuple(sixteenth / 16 for sixteenth in range(1, 17))
"""the factors α or λ that can be tried"""
LAYER_ALPHAS = (0.25, 0.5, 0.75, 1.0)
DENSITY = 0.2
"""the share of a task vector's entries that TIES keeps, as in its paper"""
DROP_RATES = (0.5, 0.9)
FISHER_WEIGHTS = tuple(10 ** (4 - i / 3) for i in range(16))


class Candidate(NamedTuple):
    """A merged model that may be tried: its settings, and the function that builds it when needed."""

    kind: str
    settings: dict[str, Any]
    make: Callable[[], Params]


class Series(NamedTuple):
    """Merged models of growing distance from the base. The loss grows along the series but for noise, so that the
    furthest one within a budget can be searched with few scorings.
    """

    candidates: tuple[Candidate, ...]

    def search_furthest(self, loss_of: Callable[[Candidate], float], end: float = math.inf) -> None:
        """Call `loss_of`, the loss in units of the budget, on candidates that close in on the furthest one within it.

        `end` is the loss of the model that comes after the last candidate.
        """
        furthest(len(self.candidates) + 1, lambda place: loss_of(self.candidates[place - 1]), end)


class ScoredCandidate(NamedTuple):
    """A candidate with its scores on the validation rows.

    `drop` is the loss of the original score and `gain` the gain of the new one, both relative to the base and with the
    same sign for every metric. new and gain are None if the drop exceeds the budget: the new task is then not scored.
    """

    kind: str
    settings: dict[str, Any]
    original: float
    new: float | None
    drop: float
    gain: float | None

    def is_within(self, margin: float) -> bool:
        """Whether the drop is at most `margin`; False for a score that is not finite."""
        return self.drop <= margin + SAME

    def loss(self, margin: float) -> float:
        """Return the drop in units of the margin: at most 1 within it."""
        return self.drop / (margin + SAME)


# ---------------------------------------------------------------- the candidates


def ties(base: Params, tuned: Params) -> Iterator[Series]:
    """Yield θ* + λ trim(τ, DENSITY) as a series of scales λ. With a single tuned model TIES has no signs to elect."""

    def make(scale: float) -> Params:
        return add_vectors(base, [tuned], [trimmed(task_vector(base, tuned), DENSITY)], scale)

    yield _series("ties", STEPS, make, lambda scale: {"density": DENSITY, "scale": scale})


def dare(base: Params, tuned: Params, key: jax.Array) -> Iterator[Series]:
    """Yield θ* + λ dropped(τ, p) as a series of scales λ for each p of DROP_RATES, with one random draw for each p."""
    for rate, draw in zip(DROP_RATES, jax.random.split(key, len(DROP_RATES)), strict=True):

        def make(scale: float, rate: float = rate, draw: jax.Array = draw) -> Params:
            return add_vectors(base, [tuned], [dropped(task_vector(base, tuned), rate, draw)], scale)

        yield _series("dare", STEPS, make, lambda scale, rate=rate: {"rate": rate, "scale": scale})


def fisher(base: Params, tuned: Params, of_base: Params, of_tuned: Params | None) -> Iterator[Series]:
    """Yield (λ F* θ* + F θ) / (λ F* + F) as a series of FISHER_WEIGHTS λ; without F it is 1 everywhere.

    F* and F are divided by their means, because they may be of two tasks, two estimators or two temperatures: λ is then
    the weight of an average parameter of the base relative to one of the tuned model.
    """
    ones = {path: jnp.ones(leaf.shape) for path, leaf in flatten(shared(base, tuned)[0]).items()}
    base_fisher, tuned_fisher = (_of_mean_1(tree) for tree in (of_base, of_tuned or ones))

    def make(weight: float) -> Params:
        return fisher_merge([base, tuned], [base_fisher, tuned_fisher], [weight, 1.0])

    yield _series("fisher", FISHER_WEIGHTS, make, lambda weight: {"weight": weight})


def _series(
    kind: str, values: Sequence[float], make: Callable[[float], Params], settings_of: Callable[[float], dict[str, Any]]
) -> Series:
    """Return the series of the candidates `make(value)` with `settings_of(value)`."""
    return Series(tuple(Candidate(kind, settings_of(value), partial(make, value)) for value in values))


def _of_mean_1(tree: Params) -> Params:
    """Return the tree divided by the mean over all its entries, unchanged if that is 0."""
    leaves = jax.tree.leaves(tree)
    mean = sum(float(jnp.sum(leaf)) for leaf in leaves) / sum(leaf.size for leaf in leaves)
    return jax.tree.map(lambda leaf: leaf / mean, tree) if mean else tree


def moved_depths(base: Params, tuned: Params, blocks: int) -> list[int]:
    """Return the depths at which some parameter differs; elsewhere an α has no effect."""
    pairs = zip(*(flatten(tree).items() for tree in shared(base, tuned)), strict=True)
    return sorted({depth_of(path, blocks) for (path, old), (_, new) in pairs if bool((old != new).any())})


# ---------------------------------------------------------------- the choice


def better(candidate: ScoredCandidate, other: ScoredCandidate, margin: float) -> bool:
    """Whether `candidate` ranks above `other`: first by being within the margin, then by gain, then by smaller drop."""
    return _rank(candidate, margin) > _rank(other, margin)


def _rank(candidate: ScoredCandidate, margin: float) -> tuple[bool, float, float]:
    gain, negative_drop = (
        round(value, 9) if value is not None and math.isfinite(value) else -math.inf
        for value in (candidate.gain, -candidate.drop)
    )
    return candidate.is_within(margin), gain, negative_drop


def choose(tried: Sequence[ScoredCandidate], margin: float) -> int:
    """Return the index of the best candidate, the first of equals."""
    best = 0
    for at in range(1, len(tried)):
        if better(tried[at], tried[best], margin):
            best = at
    return best


def nearest_miss(tried: Sequence[ScoredCandidate], margin: float) -> int | None:
    """Return the index of the smallest drop beyond the margin among candidates that gain or may gain, or None."""
    missed = [
        at
        for at, candidate in enumerate(tried)
        if (candidate.gain is None or candidate.gain > SAME)
        and not candidate.is_within(margin)
        and math.isfinite(candidate.drop)
    ]
    return min(missed, key=lambda at: tried[at].drop, default=None)


def search_layers(
    start: ScoredCandidate,
    alphas: Sequence[float] | np.ndarray,
    depths: Sequence[int],
    score: Callable[[np.ndarray], ScoredCandidate],
    margin: float,
    sweeps: int,
) -> None:
    """Search one α for each depth by coordinate search, from `alphas` [L], whose scores are `start`.

    The α of one depth after the other is increased while the others are fixed: the furthest of the larger LAYER_ALPHAS
    within the budget is searched, and the best of the values scored is taken if it is better than the present one. This
    is repeated up to `sweeps` times, until a sweep changes nothing. The best is never worse than `start`.
    """
    at, best = np.array(alphas, np.float32), start
    for _ in range(sweeps):
        unmoved = at.copy()
        for depth in depths:
            here = at.copy()

            values = [value for value in LAYER_ALPHAS if value > here[depth]]

            def loss_at(
                place: int, here: np.ndarray = here, depth: int = depth, values: Sequence[float] = values
            ) -> float:
                nonlocal at, best
                moved = here.copy()
                moved[depth] = values[place - 1]
                candidate = score(moved)
                if better(candidate, best, margin):
                    at, best = moved, candidate
                return candidate.loss(margin)

            furthest(len(values) + 1, loss_at)
        if np.array_equal(at, unmoved):
            break
