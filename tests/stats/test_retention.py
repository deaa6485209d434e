"""Combined score, crossover, stopping and verdicts against hand-worked cases and real intervals."""

import math

import numpy as np
import pytest

from fft.stats.intervals import Change, paired_change, unseen_rate
from fft.stats.metrics import METRICS
from fft.stats.retention import EXIT_CODES, best, combined_score, crossover, should_stop, verdict

NAN = float("nan")


def history(originals, combined=None):
    return [
        {"step": 10 * i, "original": original, "new": 0.5, "combined": (combined or originals)[i]}
        for i, original in enumerate(originals)
    ]


def change(value, low, high, n=100, changed=5, before=0.9):
    return Change("accuracy", before, before + value, value, low, high, n, 1.0, changed)


@pytest.mark.parametrize(
    ("new", "original", "weight", "expected"),
    [
        (0.9, 0.85, 1.0, 0.9),  # nothing lost
        (0.9, 0.90, 1.0, 0.9),  # a gain on the original task does not count
        (0.9, 0.845, 1.0, 0.9),  # within the tolerance
        (0.9, 0.80, 1.0, 0.86),
        (0.9, 0.80, 2.0, 0.82),
        (0.9, 0.80, 0.0, 0.9),
        (NAN, 0.85, 1.0, -math.inf),
        (0.9, NAN, 1.0, -math.inf),
        (0.9, -math.inf, 1.0, -math.inf),
        (0.9, None, 1.0, 0.9),
    ],
)
def test_combined_score(new, original, weight, expected):
    baseline = None if original is None else 0.85
    assert combined_score(new, original, baseline, weight, tolerance=0.01) == pytest.approx(expected)


def test_combined_score_of_signed_rmse():
    assert combined_score(-0.4, -1.3, -1.0, 1.0, 0.1) == pytest.approx(-0.6)


@pytest.mark.parametrize(
    ("originals", "tolerance", "sign", "expected"),
    [
        ([0.90, 0.91, 0.89, 0.88, 0.90], 0.01, 1, 30),  # .01 is within, .02 is not, a later recovery does not matter
        ([0.90, 0.90, 0.899], 0.01, 1, None),
        ([0.90, 0.88], 0.05, 1, None),
        ([0.90, 0.89999], 0.0, 1, 10),
        ([1.0, 0.9, 1.2], 0.1, -1, 20),  # rmse: up is worse
        ([0.90, NAN], 0.01, 1, 10),
        ([0.90, None, 0.90], 0.01, 1, 10),
        ([0.90], 0.01, 1, None),
        ([], 0.01, 1, None),
        ([None, None], 0.01, 1, None),
    ],
)
def test_crossover(originals, tolerance, sign, expected):
    assert crossover(history(originals, [0.0] * len(originals)), tolerance, sign) == expected


def test_best_is_the_earliest_highest_and_never_nan():
    assert best(history([0.1, 0.3, 0.3, 0.2])) == 1
    assert best(history([NAN, 0.1, NAN])) == 1
    assert best(history([NAN, -math.inf])) == 0
    assert best(history([None, 0.1])) == 1
    with pytest.raises(ValueError, match="at least one"):
        best([])


def test_should_stop_after_patience_scorings_without_a_better_one():
    scores = [0.1, 0.5, 0.4, 0.5, 0.3]
    assert [should_stop(history(scores[: n + 1]), 2) for n in range(5)] == [False, False, False, True, True]
    assert not should_stop(history(scores), 4)
    assert not should_stop(history(scores), 0)
    assert should_stop(history([0.5, NAN, NAN]), 2)


@pytest.mark.parametrize(
    ("value", "low", "high", "outcome", "needed"),
    [
        (-0.005, -0.010, 0.000, "pass", None),  # the drop's upper end .010 equals the tolerance
        (-0.005, -0.011, 0.000, "undecided", 144),  # arm .006, gap .005: 100 * 1.44
        (0.020, 0.005, 0.035, "pass", None),
        (-0.030, -0.045, -0.015, "fail", None),
        (-0.030, -0.060, -0.010, "undecided", 100),  # the drop's lower end .010 equals the tolerance: just undecided
        (
            -0.030,
            -0.060,
            0.29 - 0.30,
            "undecided",
            100,
        ),  # .0100000000000000088 counts as .01
        (-0.030, -0.060, 0.030, "undecided", 900),  # arm .060 towards the tolerance, gap .020
        (-0.010, -0.040, 0.020, "undecided", None),  # the drop equals the tolerance
        (NAN, NAN, NAN, "fail", None),
    ],
)
def test_verdict(value, low, high, outcome, needed):
    result = verdict(change(value, low, high), tolerance=0.01)
    assert (result.outcome, result.needed, result.tolerance) == (outcome, needed, 0.01)
    np.testing.assert_equal([result.drop, result.drop_low, result.drop_high], [0 - value, 0 - high, 0 - low])


def test_a_base_without_a_score_is_undecided():
    result = verdict(Change("pearson", NAN, 0.5, NAN, NAN, NAN, 100), 0.01)
    assert (result.outcome, result.needed) == ("undecided", None)


@pytest.mark.parametrize("name", ["mcc", "pearson", "spearman"])
def test_a_score_that_is_not_defined_is_undecided(name):
    same = np.ones(60, int)
    result = verdict(paired_change(METRICS[name], same, same * 2, same), 0.01)
    assert (result.outcome, result.needed) == ("undecided", None) and "all 60 rows" in result.reason
    assert np.isnan([result.drop, result.drop_low, result.drop_high]).all()


def test_twenty_unchanged_predictions_do_not_pass_and_the_needed_number_does():
    def of(n):
        same = np.zeros(n, int)
        return verdict(paired_change(METRICS["accuracy"], same, same, same), 0.01)

    assert of(20).outcome == "undecided"
    needed = of(20).needed
    assert (of(needed).outcome, of(needed - 1).outcome) == ("pass", "undecided")
    assert unseen_rate(needed) <= 0.01 < unseen_rate(needed - 1)


def test_the_needed_number_decides_for_repeated_data():
    rng = np.random.default_rng(0)
    labels = np.zeros(200, int)
    before = (rng.random(200) < 0.1).astype(int)
    after = before.copy()
    after[:8] = 1 - after[:8]
    metric = METRICS["accuracy"]
    first = verdict(paired_change(metric, labels, before, after), 0.01)
    assert first.outcome == "undecided"
    times = math.ceil(1.4 * first.needed / 200)  # with a reserve: the ends of such a small sample are coarse
    again = paired_change(metric, *(np.tile(values, times) for values in (labels, before, after)))
    assert verdict(again, 0.01).outcome == "fail"
    half = max(1, round(0.5 * first.needed / 200))
    sooner = paired_change(metric, *(np.tile(values, half) for values in (labels, before, after)))
    assert verdict(sooner, 0.01).outcome == "undecided"


def test_exit_codes():
    assert EXIT_CODES == {"pass": 0, "fail": 1, "undecided": 4}
