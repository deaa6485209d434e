"""Which merged models a repair tries, and how it chooses among them by their scores."""

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
"""how far on a way the models are that can be tried"""
LAYER_ALPHAS = (0.25, 0.5, 0.75, 1.0)
DENSITY = 0.2
"""the share of a task vector's entries that TIES keeps, its authors' own"""
DROP_RATES = (0.5, 0.9)
FISHER_WEIGHTS = tuple(10 ** (4 - i / 3) for i in range(16))


class Candidate(NamedTuple):
    """A merged model that may be tried: what it is, and how it is made; nothing is held until then."""

    kind: str
    settings: dict[str, Any]
    make: Callable[[], Params]


class Way(NamedTuple):
    """Merged models in a row, each further from the base than the one before: what is lost grows along it, but for
    noise, so that the furthest within a budget is found with few questions.
    """

    candidates: tuple[Candidate, ...]

    def furthest(self, loss_of: Callable[[Candidate], float], end: float = math.inf) -> None:
        """Ask for the loss of some candidates, in units of the budget, towards the last that keeps it; `end` is that of
        what comes behind the last.
        """
        furthest(len(self.candidates) + 1, lambda place: loss_of(self.candidates[place - 1]), end)


class Tried(NamedTuple):
    """A candidate with its scores on the validation rows.

    `drop` of the original score and `gain` of the new one are against the base, signed so that + is a loss and a gain
    for every metric. new and gain are None where the drop is beyond the budget: then the new task is not scored.
    """

    kind: str
    settings: dict[str, Any]
    original: float
    new: float | None
    drop: float
    gain: float | None

    def is_within(self, margin: float) -> bool:
        """Whether the drop is at most `margin`; a score that is not finite is not."""
        return self.drop <= margin + SAME

    def loss(self, margin: float) -> float:
        """The drop in units of the margin: at most 1 within it."""
        return self.drop / (margin + SAME)


# ---------------------------------------------------------------- what is tried


def ties(base: Params, tuned: Params) -> Iterator[Way]:
    """θ* + λ trim(τ, DENSITY), a way of scales λ. With one tuned model no sign is contested."""

    def make(scale: float) -> Params:
        return add_vectors(base, [tuned], [trimmed(task_vector(base, tuned), DENSITY)], scale)

    yield _way("ties", STEPS, make, lambda scale: {"density": DENSITY, "scale": scale})


def dare(base: Params, tuned: Params, key: jax.Array) -> Iterator[Way]:
    """θ* + λ dropped(τ, p), a way of scales λ for each p of DROP_RATES, with one draw."""
    for rate, draw in zip(DROP_RATES, jax.random.split(key, len(DROP_RATES)), strict=True):

        def make(scale: float, rate: float = rate, draw: jax.Array = draw) -> Params:
            return add_vectors(base, [tuned], [dropped(task_vector(base, tuned), rate, draw)], scale)

        yield _way("dare", STEPS, make, lambda scale, rate=rate: {"rate": rate, "scale": scale})


def fisher(base: Params, tuned: Params, of_base: Params, of_tuned: Params | None) -> Iterator[Way]:
    """(λ F* θ* + F θ) / (λ F* + F), the way of FISHER_WEIGHTS λ, each Fisher divided by its mean; without F it is 1.

    The mean is taken out because F* and F may be of two tasks, two estimators or two temperatures: λ is then what an
    average parameter of the base counts for beside one of the tuned model.
    """
    ones = {path: jnp.ones(leaf.shape) for path, leaf in flatten(shared(base, tuned)[0]).items()}
    kept, learned = (_of_mean_1(tree) for tree in (of_base, of_tuned or ones))

    def make(weight: float) -> Params:
        return fisher_merge([base, tuned], [kept, learned], [weight, 1.0])

    yield _way("fisher", FISHER_WEIGHTS, make, lambda weight: {"weight": weight})


def _way(
    kind: str, values: Sequence[float], make: Callable[[float], Params], told: Callable[[float], dict[str, Any]]
) -> Way:
    """The candidates `make(value)`, with the settings that tell of each."""
    return Way(tuple(Candidate(kind, told(value), partial(make, value)) for value in values))


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
    gain, kept = (
        round(value, 9) if value is not None and math.isfinite(value) else -math.inf
        for value in (tried.gain, -tried.drop)
    )
    return tried.is_within(margin), gain, kept


def choose(tried: Sequence[Tried], margin: float) -> int:
    """The place of the best, the first of equals."""
    best = 0
    for at in range(1, len(tried)):
        if better(tried[at], tried[best], margin):
            best = at
    return best


def nearest_miss(tried: Sequence[Tried], margin: float) -> int | None:
    """The place of the smallest drop among those that may gain and are beyond the margin; None without one."""
    missed = [
        at
        for at, one in enumerate(tried)
        if (one.gain is None or one.gain > SAME) and not one.is_within(margin) and math.isfinite(one.drop)
    ]
    return min(missed, key=lambda at: tried[at].drop, default=None)


def search_layers(
    start: Tried,
    alphas: Sequence[float] | np.ndarray,
    depths: Sequence[int],
    score: Callable[[np.ndarray], Tried],
    margin: float,
    sweeps: int,
) -> None:
    """Coordinate search over one α a depth, from `alphas` [L], whose scores are `start`.

    One depth after the other goes, the others held, as far as the budget lets it: of the LAYER_ALPHAS beyond its own
    the furthest within is looked for, and it stays at the best of those asked for. Again up to `sweeps` times,
    until a sweep changes nothing. It only moves to what is better, so its best is never worse than `start`.
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
                tried = here.copy()
                tried[depth] = values[place - 1]
                found = score(tried)
                if better(found, best, margin):
                    at, best = tried, found
                return found.loss(margin)

            furthest(len(values) + 1, loss_at)
        if np.array_equal(at, unmoved):
            break
