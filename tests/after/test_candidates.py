"""The choice among candidates and the search over layers, on invented scores; the candidates of a toy tree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.after import candidates
from fft.after.candidates import (
    LAYER_ALPHAS,
    STEPS,
    Candidate,
    ScoredCandidate,
    Series,
    choose,
    nearest_miss,
    search_layers,
)
from fft.merging import formulas
from tests.helpers.toy import max_difference, toy_params


def tried(drop, gain, kind="alpha", **settings):
    return ScoredCandidate(kind, settings, 0.9 - drop, 0.7 + gain, drop, gain)


BASE = tried(0.0, 0.0)


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ([BASE], 0),
        ([BASE, tried(0.005, 0.1), tried(0.02, 0.3)], 1),  # the best gain is beyond the budget
        ([BASE, tried(0.01, 0.1), tried(0.005, 0.1)], 2),  # equal gain: the smaller drop
        ([BASE, tried(0.005, 0.1), tried(0.005, 0.1)], 1),  # equal in both: the first
        ([BASE, tried(0.01 + 1e-12, 0.1)], 1),  # a budget met but for rounding
        ([BASE, tried(-0.02, 0.1), tried(0.0, 0.2)], 2),  # a gain of the original is no reason
        ([BASE, tried(0.0, -0.1)], 0),
        ([BASE, tried(math.nan, 0.5), tried(0.0, math.nan)], 0),  # no finite score, no choice
    ],
)
def test_the_choice_is_the_best_gain_within_the_budget(found, best):
    assert choose(found, margin=0.01) == best


def test_the_nearest_miss_is_the_smallest_drop_of_those_that_gain():
    assert nearest_miss([BASE, tried(0.03, 0.3), tried(0.02, 0.01), tried(0.011, 0.0)], 0.01) == 2
    assert nearest_miss([BASE, tried(0.0, 0.1), tried(0.5, -0.1)], 0.01) is None


def test_a_candidate_that_was_not_scored_on_the_new_task_is_never_chosen():
    unscored = tried(0.03, 0.0)._replace(new=None, gain=None)
    assert choose([BASE, unscored, tried(0.0, 0.1)], 0.01) == 2
    assert nearest_miss([BASE, unscored, tried(0.05, 0.3)], 0.01) == 1


@pytest.mark.parametrize("last", range(17))
def test_the_furthest_within_is_found_by_few_questions(last):
    series, asked = Series(tuple(Candidate("alpha", {"alpha": alpha}, dict) for alpha in STEPS)), []

    def loss(candidate):
        asked.append(candidate.settings["alpha"])
        return asked[-1] / ((last + 0.5) / 16)

    series.search_furthest(loss)
    assert max((alpha for alpha in asked if alpha <= last / 16), default=0) == last / 16
    assert len(asked) == len(set(asked)) <= 6


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sweeps", [1, 3])
def test_the_search_goes_as_far_in_each_layer_as_the_budget_lets_it(seed, sweeps):
    """Against a loop over all values: drop and gain grow with every α, each at its own rate."""
    rng = np.random.default_rng(seed)
    lost, gained = rng.uniform(0.001, 0.02, 3), rng.uniform(0.01, 0.1, 3)
    margin, calls = 0.02, []

    def of(alphas):
        return tried(float(np.dot(lost, alphas)), float(np.dot(gained, alphas)))

    def score(alphas):
        calls.append(tuple(alphas.tolist()))
        return of(alphas)

    start = np.array([0.25, 0.25, 0.25], np.float32)
    search_layers(of(start), start, [0, 2], score, margin, sweeps)
    at = start.copy()
    for depth in (0, 2):
        for value in LAYER_ALPHAS:
            further = at.copy()
            further[depth] = value
            if of(further).is_within(margin) and value > at[depth]:
                at = further
    best = choose([of(start), *(of(np.array(call)) for call in calls)], margin)
    assert [start.tolist(), *map(list, calls)][best] == at.tolist()
    assert all(call[1] == 0.25 for call in calls), "a depth that did not move is left alone"
    assert len(calls) <= 2 * 2 * sweeps, "two questions a layer"


def test_a_sweep_that_changes_nothing_is_the_last():
    calls = []

    def score(alphas):
        calls.append(alphas)
        return tried(0.5, 0.5)

    search_layers(BASE, (0.3, 0.3), [0, 1], score, 0.01, sweeps=9)
    assert len(calls) == 2 * 2


def test_only_depths_that_moved_are_searched():
    base = toy_params(heads={"original": 3})
    tuned = jax.tree.map(jnp.copy, base)
    tuned["layers"]["1"]["attention"]["query"]["bias"] += 1.0
    tuned["heads"]["new"] = tuned["heads"]["original"]
    assert candidates.moved_depths(base, tuned, 2) == [2], "block 1; a head of one of the two has nothing to search"
    tuned["heads"]["original"] = jax.tree.map(lambda leaf: leaf + 1, tuned["heads"]["original"])
    assert candidates.moved_depths(base, tuned, 2) == [2, 3]
    assert candidates.moved_depths(base, base, 2) == []


def of_ways(ways):
    """Return every fourth candidate of each series, including the last."""
    return [candidate for way in ways for candidate in way.candidates[3::4]]


def test_the_candidates_are_what_their_settings_say():
    base, tuned = toy_params(0, heads={"original": 3}), toy_params(1, heads={"original": 3, "new": 2})
    vector = formulas.task_vector(base, tuned)
    for one in of_ways(candidates.ties(base, tuned)):
        density, scale = one.settings["density"], one.settings["scale"]
        expected = formulas.add_vectors(base, [tuned], [formulas.trimmed(vector, density)], scale)
        assert max_difference(one.make(), expected) == 0
    made, again = (of_ways(candidates.dare(base, tuned, jax.random.key(0))) for _ in range(2))
    assert all(max_difference(one.make(), same.make()) == 0 for one, same in zip(made, again, strict=True))
    assert all(max_difference(one.make()["heads"]["new"], tuned["heads"]["new"]) == 0 for one in made)
    half, whole = (next(c.make() for c in made if c.settings == {"rate": 0.5, "scale": s}) for s in (0.5, 1.0))
    moves = [formulas.task_vector(base, model) for model in (half, whole)]
    assert max_difference(jax.tree.map(lambda leaf: 2 * leaf, moves[0]), moves[1]) < 1e-5, "one draw for every scale"


def test_fisher_candidates_weigh_by_shares_of_the_mean():
    base, tuned = toy_params(0), toy_params(1)
    rng = np.random.default_rng(0)
    kept = jax.tree.map(lambda leaf: jnp.asarray(rng.exponential(1e-5, leaf.shape), jnp.float32), base)
    numbers = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(kept)]).astype(np.float64)
    made = of_ways(candidates.fisher(base, tuned, kept, None))
    assert [one.settings["weight"] for one in made] == sorted((one.settings["weight"] for one in made), reverse=True)
    for one in made:
        shares = [
            one.settings["weight"] * np.asarray(leaf, np.float64) / numbers.mean() for leaf in jax.tree.leaves(kept)
        ]
        expected = [
            (share * np.asarray(old, np.float64) + np.asarray(new, np.float64)) / (share + 1)
            for share, old, new in zip(shares, jax.tree.leaves(base), jax.tree.leaves(tuned), strict=True)
        ]
        for found, wanted in zip(jax.tree.leaves(one.make()), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    scaled = of_ways(candidates.fisher(base, tuned, jax.tree.map(lambda leaf: 1e4 * leaf, kept), None))
    assert max_difference(made[3].make(), scaled[3].make()) < 1e-5, "the scale of a Fisher does not matter"
