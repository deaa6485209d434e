"""Which merged models a repair tries, and how it chooses among them by their scores."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.merging.formulas import add_vectors, dropped, fisher_merge, shared, task_vector, trimmed
from fft.paths import Params, depth_of, flatten
from fft.retention import SAME

ALPHAS = tuple(round(0.05 * i, 2) for i in range(21))
LAYER_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SCALES = (0.25, 0.5, 0.75, 1.0)
DENSITIES = (0.1, 0.2, 0.4)
DROP_RATES = (0.5, 0.9)
FISHER_WEIGHTS = tuple(10 ** (i / 2) for i in range(-2, 9))


class Candidate(NamedTuple):
    """A merged model that may be tried: what it is, and how it is made; nothing is held until then."""

    kind: str
    settings: dict[str, Any]
    make: Callable[[], Params]


class Tried(NamedTuple):
    """A candidate with its scores on the validation rows.

    `drop` of the original score and `gain` of the new one are against the base, signed so that + is a loss and a gain
    for every metric.
    """

    kind: str
    settings: dict[str, Any]
    original: float
    new: float
    drop: float
    gain: float

    def is_within(self, margin: float) -> bool:
        """Whether the drop is at most `margin`; a score that is not finite is not."""
        return self.drop <= margin + SAME


# ---------------------------------------------------------------- what is tried


def ties(base: Params, tuned: Params) -> Iterator[Candidate]:
    """θ* + λ trim(τ, density) over DENSITIES and SCALES. With one tuned model no sign is contested."""
    for density, scale in itertools.product(DENSITIES, SCALES):

        def make(density=density, scale=scale):
            return add_vectors(base, [tuned], [trimmed(task_vector(base, tuned), density)], scale)

        yield Candidate("ties", {"density": density, "scale": scale}, make)


def dare(base: Params, tuned: Params, key: jax.Array) -> Iterator[Candidate]:
    """θ* + λ dropped(τ, p) over DROP_RATES and SCALES, one draw for each p."""
    draws = zip(DROP_RATES, jax.random.split(key, len(DROP_RATES)), strict=True)
    for (rate, draw), scale in itertools.product(draws, SCALES):

        def make(rate=rate, draw=draw, scale=scale):
            return add_vectors(base, [tuned], [dropped(task_vector(base, tuned), rate, draw)], scale)

        yield Candidate("dare", {"rate": rate, "scale": scale}, make)


def fisher(base: Params, tuned: Params, of_base: Params, of_tuned: Params | None) -> Iterator[Candidate]:
    """(λ F* θ* + F θ) / (λ F* + F) over FISHER_WEIGHTS, each Fisher divided by its mean; without F all of it is 1.

    The mean is taken out because F* and F may be of two tasks, two estimators or two temperatures: λ is then what an
    average parameter of the base counts for beside one of the tuned model.
    """
    ones = {path: jnp.ones(leaf.shape) for path, leaf in flatten(shared(base, tuned)[0]).items()}
    kept, learned = (_of_mean_1(tree) for tree in (of_base, of_tuned or ones))
    for weight in FISHER_WEIGHTS:

        def make(weight=weight):
            return fisher_merge([base, tuned], [kept, learned], [weight, 1.0])

        yield Candidate("fisher", {"weight": weight}, make)


def _of_mean_1(tree: Params) -> Params:
    leaves = jax.tree.leaves(tree)
    mean = sum(float(jnp.sum(leaf)) for leaf in leaves) / sum(leaf.size for leaf in leaves)
    return jax.tree.map(lambda leaf: leaf / mean, tree) if mean else tree


def moved_depths(base: Params, tuned: Params, blocks: int) -> list[int]:
    """The depths at which some parameter differs; the others have no α to search."""
    pairs = zip(*(flatten(tree).items() for tree in shared(base, tuned)), strict=True)
    return sorted({depth_of(path, blocks) for (path, old), (_, new) in pairs if bool((old != new).any())})


# ---------------------------------------------------------------- how is chosen


def better(one: Tried, other: Tried, margin: float) -> bool:
    """Whether `one` is to be preferred: within the margin before beyond it, then by gain, then by the smaller drop."""
    return _worth(one, margin) > _worth(other, margin)


def _worth(tried: Tried, margin: float) -> tuple[bool, float, float]:
    gain, kept = (round(value, 9) if math.isfinite(value) else -math.inf for value in (tried.gain, -tried.drop))
    return tried.is_within(margin), gain, kept


def choose(tried: Sequence[Tried], margin: float) -> int:
    """The place of the best, the first of equals."""
    best = 0
    for at in range(1, len(tried)):
        if better(tried[at], tried[best], margin):
            best = at
    return best


def nearest_miss(tried: Sequence[Tried], margin: float) -> int | None:
    """The place of the smallest drop among those that gain something and are beyond the margin; None without one."""
    missed = [at for at, one in enumerate(tried) if one.gain > SAME and not one.is_within(margin)]
    return min(missed, key=lambda at: tried[at].drop, default=None)


def search_layers(
    start: Tried,
    alphas: Sequence[float],
    depths: Sequence[int],
    score: Callable[[np.ndarray], Tried],
    margin: float,
    sweeps: int,
) -> list[Tried]:
    """Coordinate search over one α a depth, from `alphas` [L], whose scores are `start`: everything it tried.

    One depth after the other takes the best of LAYER_ALPHAS, the others held; again up to `sweeps` times, until a
    sweep changes nothing. It only moves to what is better, so its best is never worse than `start`.
    """
    at, best, tried = np.array(alphas, np.float32), start, []
    seen = {tuple(at.tolist())}
    for _ in range(sweeps):
        unmoved = at.copy()
        for depth in depths:
            here = at.copy()
            for value in LAYER_ALPHAS:
                here[depth] = value
                if tuple(here.tolist()) in seen:
                    continue
                seen.add(tuple(here.tolist()))
                tried.append(score(here.copy()))
                if better(tried[-1], best, margin):
                    at, best = here.copy(), tried[-1]
        if np.array_equal(at, unmoved):
            break
    return tried
