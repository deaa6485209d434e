"""Metrics against scikit-learn and scipy, intervals against loops, closed forms and simulated coverage."""

import time
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, root_mean_squared_error

from fft.core.errors import InputError
from fft.stats import intervals as evaluate
from fft.stats.intervals import Interval, interval, mcnemar_p, paired_change, predictions, unchanged, unseen
from fft.stats.metrics import METRICS, metric_for

ORACLES = {
    "accuracy": accuracy_score,
    "macro_f1": lambda y, p: f1_score(y, p, average="macro"),
    "mcc": matthews_corrcoef,
    "pearson": lambda y, p: stats.pearsonr(y, p).statistic,
    "spearman": lambda y, p: stats.spearmanr(y, p).statistic,
    "rmse": root_mean_squared_error,
}
CLASSIFICATION = [name for name in METRICS if METRICS[name].kind == "classification"]


def classes(rng, shape, count=4, right=0.7):
    labels = rng.integers(0, count, shape)
    return labels, np.where(rng.random(shape) < right, labels, rng.integers(0, count, shape))


def numbers(rng, shape):
    labels = rng.normal(3, 2, shape).round(1)
    return labels, labels + rng.normal(0, 1, shape).round(1)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("size", [3, 12, 200])
def test_every_metric_agrees_with_its_library_over_leading_axes(name, size):
    rng = np.random.default_rng(size)
    metric = METRICS[name]
    # 4 classes in 3 or 12 examples: most of these samples miss one; a class may be labelled or predicted only
    labels, predicted = (classes if metric.kind == "classification" else numbers)(rng, (2, 25, size))
    ours = metric.function(labels, predicted)
    assert ours.shape == (2, 25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = np.array(
            [[ORACLES[name](y, p) for y, p in zip(*pair, strict=True)] for pair in zip(labels, predicted, strict=True)]
        )
    constant = np.isnan(theirs)  # scipy returns nan for a constant, our metrics 0
    np.testing.assert_allclose(ours[~constant], theirs[~constant], atol=1e-12)
    assert (ours[constant] == 0).all()
    np.testing.assert_allclose(metric.function(labels[0], predicted[0]), ours[0])


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        ([0, 0, 1, 1], [1, 1, 1, 1]),
        ([1, 1, 1], [1, 1, 1]),
        ([0, 0, 0], [1, 1, 1]),
        ([0, 1, 2], [5, 5, 0]),
        ([0, 1, 1], [-1, 1, 1]),
        ([7], [7]),
    ],
)
@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.filterwarnings("ignore")
def test_degenerate_classes_follow_scikit_learn(name, labels, predicted):
    ours = METRICS[name].function(np.array(labels), np.array(predicted))
    assert ours == pytest.approx(ORACLES[name](labels, predicted), abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_constant_correlates_with_nothing_and_nan_stays_nan(name):
    function = METRICS[name].function
    labels = np.array([1.0, 2.0, 4.0])
    for constant in (np.full(3, 0.1), np.full(3, 1e9), np.zeros(3)):
        assert function(labels, constant) == 0
        assert function(constant, labels) == 0
    for broken in (np.nan, np.inf):
        with np.errstate(invalid="ignore"):
            assert np.isnan(function(labels, np.array([1.0, broken, 2.0])))


def test_ranks_by_counting_equal_ranks_by_sorting():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 9, (2, 6, 40))
    by_sorting = METRICS["spearman"].function(labels.astype(float), predicted.astype(float))
    np.testing.assert_allclose(METRICS["spearman"].function(labels, predicted), by_sorting, atol=1e-12)


def test_metric_for_names_those_that_fit():
    assert metric_for("classification").name == "accuracy"
    assert metric_for("regression").name == "pearson"
    assert metric_for("regression", "rmse").sign == -1
    with pytest.raises(InputError, match=r"rmse.*accuracy, macro_f1, mcc"):
        metric_for("classification", "rmse")
    with pytest.raises(InputError, match="'ranking'"):
        metric_for("ranking")
    assert all(name == metric.name for name, metric in METRICS.items())


def test_predictions_by_kind():
    logits = np.array([[0.1, 2.0], [3.0, 1.0], [np.nan, 1.0], [np.inf, 0.0]], np.float32)
    assert predictions("classification", logits).tolist() == [1, 0, -1, -1]
    values = predictions("regression", np.array([[0.5], [np.nan]], np.float32))
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [0.5, np.nan])


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("name", ORACLES)
def test_the_bootstrap_agrees_with_a_plain_loop(name):
    rng = np.random.default_rng(3)
    metric = METRICS[name]
    make = classes if metric.kind == "classification" else numbers
    labels, before = make(rng, 300)
    after = np.where(rng.random(300) < 0.8, before, make(rng, 300)[1])
    result = paired_change(metric, labels, before, after)
    single = interval(metric, labels, after)
    changes, scores = [], []
    for _ in range(300):
        i = rng.integers(0, 300, 300)
        scores.append(ORACLES[name](labels[i], after[i]))
        changes.append(metric.sign * (scores[-1] - ORACLES[name](labels[i], before[i])))
    width = result.high - result.low
    np.testing.assert_allclose([result.low, result.high], np.quantile(changes, [0.025, 0.975]), atol=0.15 * width)
    width = single.high - single.low
    np.testing.assert_allclose([single.low, single.high], np.quantile(scores, [0.025, 0.975]), atol=0.15 * width)
    assert result.before == pytest.approx(ORACLES[name](labels, before))
    assert result.after == pytest.approx(ORACLES[name](labels, after)) == single.value
    assert result.change == pytest.approx(metric.sign * (result.after - result.before))
    assert result.low < result.change < result.high
    assert result == paired_change(metric, labels, before, after), "seeded"


def test_pairing_is_used():
    rng = np.random.default_rng(0)
    labels, before = classes(rng, 1000, right=0.6)
    after = np.where(rng.random(1000) < 0.99, before, labels)
    result = paired_change(METRICS["accuracy"], labels, before, after)
    alone = interval(METRICS["accuracy"], labels, before)
    assert result.high - result.low < 0.5 * (alone.high - alone.low)


def test_a_lower_rmse_is_a_gain():
    labels = np.arange(50.0)
    noise = np.random.default_rng(0).normal(size=50)
    result = paired_change(METRICS["rmse"], labels, labels + 2 * noise, labels + noise)
    assert result.change > 0
    assert result.low > 0
    assert result.change == pytest.approx(result.before - result.after)


@pytest.mark.parametrize("n", [1, 2, 20, 368, 1000])
def test_nothing_seen_leaves_room_for_the_unseen(n):
    same = np.zeros(n, int)
    end = stats.binomtest(0, n).proportion_ci(method="exact").high
    result = paired_change(METRICS["accuracy"], same, same, same)
    assert (result.low, result.high) == (pytest.approx(-end), pytest.approx(end))
    assert (result.change, result.changed, result.mcnemar_p) == (0.0, 0, 1.0)
    assert interval(METRICS["accuracy"], same, same) == Interval(1.0, pytest.approx(1 - end), 1.0, n)
    assert interval(METRICS["accuracy"], same, same + 1) == Interval(0.0, 0.0, pytest.approx(end), n)


def test_one_gain_does_not_rule_out_losses():
    labels = np.zeros(20, int)
    before = np.eye(20, dtype=int)[0]
    result = paired_change(METRICS["accuracy"], labels, before, labels)
    assert result.change == pytest.approx(0.05)
    assert result.low < -0.1


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_unseen_is_the_mean_effect_of_one_wrong_answer(name):
    metric = METRICS[name]
    labels, predicted = classes(np.random.default_rng(5), 60, count=2, right=0.8)
    effects = []
    for i in np.flatnonzero(labels == predicted):
        flipped = predicted.copy()
        flipped[i] = 1 - flipped[i]
        effects.append(abs(ORACLES[name](labels, flipped) - ORACLES[name](labels, predicted)))
    end = stats.binomtest(0, 60).proportion_ci(method="exact").high
    assert unseen(metric, labels, predicted) == pytest.approx(60 * end * np.mean(effects))
    assert paired_change(metric, labels, predicted, predicted).high == pytest.approx(60 * end * np.mean(effects))


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize(("n", "lost", "gained"), [(20, 0.05, 0.02), (200, 0.01, 0.01)])
def test_the_interval_covers_the_truth(name, n, lost, gained, monkeypatch):
    """About 95 of 100 intervals contain the true change; 10 or more misses have a probability of 3 %."""
    monkeypatch.setattr(evaluate, "RESAMPLES", 1000)
    rng = np.random.default_rng(1)

    def draw(k):
        labels = (rng.random(k) < 0.3).astype(int)
        before = np.where(rng.random(k) < 0.85, labels, 1 - labels)
        u = rng.random(k)
        flips = np.where(before == labels, u < lost / 0.85, u < gained / 0.15)
        return labels, before, np.where(flips, 1 - before, before)

    labels, before, after = draw(500_000)
    true = METRICS[name].function(labels, after) - METRICS[name].function(labels, before)
    result = [paired_change(METRICS[name], *draw(n)) for _ in range(100)]
    assert sum(not change.low <= true <= change.high for change in result) < 10


@pytest.mark.parametrize("name", METRICS)
def test_degenerate_data_give_finite_ends_within_the_bounds(name):
    metric = METRICS[name]
    labels = np.array([0, 1, 1, 0, 2, 1]) if metric.kind == "classification" else np.array([0.0, 1, 1, 0, 2, 1])
    labels = labels + 1 if metric.kind == "language" else labels  # no row without a token is scored
    for predicted in (labels, labels * 0, labels[::-1]):
        result = interval(metric, labels, predicted)
        assert metric.bounds[0] <= result.low <= result.value <= result.high <= metric.bounds[1]
        change = paired_change(metric, labels, labels, predicted)
        assert change.low <= change.change <= change.high


def test_real_values_that_agree_to_the_last_bit_have_not_changed():
    labels, predicted = numbers(np.random.default_rng(0), 30)
    result = paired_change(METRICS["pearson"], labels, predicted, predicted.copy())
    assert (result.change, result.low, result.high, result.changed, result.mcnemar_p) == (0, 0, 0, None, None)


@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite_have_no_interval():
    labels = np.arange(4.0)
    broken = np.array([0.0, np.nan, 2.0, 3.0])
    for name in ("pearson", "spearman", "rmse"):
        change = paired_change(METRICS[name], labels, labels, broken)
        assert np.isnan([change.after, change.change, change.low, change.high]).all()
        assert np.isfinite(change.before)
        assert np.isnan(interval(METRICS[name], np.ones(1), np.ones(1)).low)
    wrong = paired_change(METRICS["accuracy"], np.arange(4), np.arange(4), np.full(4, -1))
    assert wrong.change == -1


@pytest.mark.parametrize("name", ["mcc", "pearson", "spearman"])
@pytest.mark.parametrize("n", [1, 2, 60])
@pytest.mark.filterwarnings("error")
def test_labels_that_do_not_vary_measure_nothing(name, n):
    metric, same = METRICS[name], np.ones(n, int if METRICS[name].kind == "classification" else float)
    rng = np.random.default_rng(n)
    before, after = (rng.integers(0, 2, n) * same for _ in range(2))
    for result in (paired_change(metric, same, before, after), unchanged(metric, same, before)):
        assert (result.before, result.after, result.n) == (0, 0, n)
        assert np.isnan([result.change, result.low, result.high]).all()
        assert f"{name} is 0 by definition" in result.undefined and (str(n) in result.undefined or n == 1)
    alone = interval(metric, same, before)
    assert alone.value == 0 and np.isnan([alone.low, alone.high]).all()


def test_a_base_that_answers_one_number_has_no_correlation_to_lose():
    labels, after = numbers(np.random.default_rng(0), 30)
    result = paired_change(METRICS["pearson"], labels, np.full(30, 0.5), after)
    assert "the base predicts 0.5 for every row" in result.undefined and np.isnan(result.low)
    assert paired_change(METRICS["pearson"], labels, after, np.full(30, 0.5)).change < 0, "the tuned model lost it"
    assert paired_change(METRICS["rmse"], labels, np.full(30, 0.5), after).undefined is None


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "rmse"])
def test_the_other_scores_are_measured_on_labels_that_do_not_vary(name):
    metric, same = METRICS[name], np.ones(60, int if METRICS[name].kind == "classification" else float)
    result = paired_change(metric, same, same, same * (np.arange(60) > 5))
    assert result.undefined is None and result.change < 0 and np.isfinite([result.low, result.high]).all()


def test_unchanged_is_zero_by_construction():
    labels, predicted = classes(np.random.default_rng(0), 10)
    result = unchanged(METRICS["accuracy"], labels, predicted)
    assert (result.change, result.low, result.high, result.changed, result.mcnemar_p, result.n) == (0, 0, 0, 0, 1, 10)
    assert result.before == result.after == accuracy_score(labels, predicted)


def test_mcnemar_against_the_binomial_sum():
    labels = np.zeros(40, int)
    before = np.array([0] * 9 + [1] * 3 + [0] * 28)
    after = np.array([1] * 9 + [0] * 3 + [0] * 28)
    tail = sum(stats.binom.pmf(k, 12, 0.5) for k in range(4))
    assert mcnemar_p(labels, before, after) == pytest.approx(2 * tail)
    assert paired_change(METRICS["accuracy"], labels, before, after).mcnemar_p == pytest.approx(2 * tail)
    assert paired_change(METRICS["accuracy"], labels, before, after).changed == 12
    assert paired_change(METRICS["mcc"], labels, before, after).mcnemar_p is None


def test_empty_or_uneven_input_is_refused():
    with pytest.raises(InputError, match="at least one example"):
        interval(METRICS["accuracy"], np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        paired_change(METRICS["accuracy"], np.zeros(3, int), np.zeros(3, int), np.zeros(2, int))


def test_ten_thousand_resamples_of_a_thousand_are_quick():
    """0.1 s when the machine is free; the limit leaves room for a busy one."""
    labels, before = classes(np.random.default_rng(0), 1000)
    start = time.perf_counter()
    paired_change(METRICS["accuracy"], labels, before, before[::-1])
    assert time.perf_counter() - start < 2
