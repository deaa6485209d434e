"""Fronts: by hand, by counting grid cells, and from runs."""

import numpy as np
import pytest
from rich.console import Console

from fft.commands.compare import show_fronts
from fft.report.fronts import draw_fronts
from fft.stats.fronts import fronts, hypervolume, mean_of, original_at, pareto_front


def record(method, strength, seed, new, original, base=(0.5, 0.9), metric="accuracy"):
    """Return the fields of a run.json that `fronts` reads."""
    experiment = {"method": [{"name": name, "strength": strength} for name in method.split("+")], "seed": seed}
    scores = {
        task: {"metric": metric, "before": before, "after": after}
        for task, before, after in (("new", base[0], new), ("original", base[1], original))
    }
    return {"name": f"{method}-{strength}-{seed}", "experiment": experiment, **scores}


def test_the_pareto_front_excludes_dominated_points():
    points = np.array([[0.1, 0.9], [0.5, 0.5], [0.5, 0.7], [0.4, 0.6], [0.9, 0.2], [0.9, 0.1]])
    assert pareto_front(points).tolist() == [[0.9, 0.2], [0.5, 0.7], [0.1, 0.9]]


def test_hypervolume_is_the_number_of_dominated_grid_cells():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points, reference = rng.integers(0, 50, (6, 2)) / 50, np.array([0.1, 0.2])
        centres = (np.stack(np.meshgrid(np.arange(50), np.arange(50)), -1).reshape(-1, 2) + 0.5) / 50
        centres = centres[(centres > reference).all(1)]
        covered = (points[:, None] > centres[None]).all(-1).any(0)
        assert hypervolume(points, reference) == pytest.approx(covered.sum() / 2500)


def test_the_original_score_at_a_new_score_lies_on_the_line_between_two_points():
    points = np.array([[0.9, 0.6], [0.7, 0.8], [0.8, 0.5]])
    assert original_at(points, 0.8) == pytest.approx(0.7)
    assert original_at(points, 0.6) == 0.8, "below the lowest new score it is constant"
    assert np.isnan(original_at(points, 0.95))


def test_a_spread_is_the_t_interval_over_seeds():
    result = mean_of([0.7, 0.8, 0.9])
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert result == pytest.approx((0.8, 0.8 - half, 0.8 + half), abs=1e-6)
    assert mean_of([0.7]) == pytest.approx((0.7, np.nan, np.nan), nan_ok=True)


def test_methods_are_compared_at_the_highest_new_score_that_all_reach():
    runs = [
        *(record("kl", s, seed, 0.6 + 0.1 * s, 0.9 - 0.1 * s) for s in (1, 2, 3) for seed in (0, 1)),
        *(record("full", s, seed, 0.7 + 0.05 * s, 0.6 - 0.01 * seed) for s in (1, 2) for seed in (0, 1)),
    ]
    compared, matched = fronts(runs)
    assert matched == pytest.approx(0.8)
    kl, full = compared
    assert (kl.method, kl.settings, kl.seeds, full.settings) == ("kl", 3, 2, 2)
    assert kl.original.value == pytest.approx(0.7) and full.original.value == pytest.approx(0.595)
    np.testing.assert_allclose(kl.points, [[0.7, 0.8], [0.8, 0.7], [0.9, 0.6]])
    assert kl.hypervolume.value > full.hypervolume.value


def test_errors_count_downwards():
    runs = [record("kl", s, 0, 1.0 - 0.1 * s, 0.5 + 0.1 * s, base=(2.0, 0.5), metric="rmse") for s in (1, 2)]
    (front,), matched = fronts(runs)
    assert matched == pytest.approx(-0.8) and front.original.value == pytest.approx(-0.7)


def test_runs_without_an_original_have_no_front():
    assert fronts([record("full", 1, 0, 0.5, 0.5) | {"original": None}]) == ([], None)


def test_the_table_and_the_pictures(tmp_path):
    runs = [record("kl", s, seed, 0.6 + 0.1 * s, 0.9 - 0.1 * s) for s in (1, 2) for seed in (0, 1)]
    runs += [record("full", 1, seed, 0.8, 0.6) for seed in (0, 1)]
    for run in runs:
        run["original"]["n"] = run["new"]["n"] = 100
        run["history"] = [{"new": 0.5 + at / 10, "original": 0.9 - at / 10} for at in range(3)]
    console = Console(record=True, width=120)
    unwatched = runs[0] | {"original": None}
    answer = show_fronts([unwatched, *runs], console, tmp_path / "cmp")
    text = console.export_text()
    assert "original at new 0.800" in text and answer["methods"]["kl"]["original"]["value"] == pytest.approx(0.7)
    assert "| kl | 2 | 2 |" in (tmp_path / "cmp-fronts.md").read_text()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"cmp-{name}" for name in ("fronts.md", "fronts.svg", "fronts.png", "steps.svg", "steps.png")}
    drawn = (tmp_path / "cmp-fronts.svg").read_text()
    assert "kl" in drawn and ">strength 1<" in drawn and ">strength 2<" in drawn
    assert "a ring at the last" in (tmp_path / "cmp-steps.svg").read_text()


def test_a_contract_is_no_strength_of_its_method():
    runs = [record("kl", s, 0, 0.6 + 0.1 * s, 0.9 - 0.1 * s) for s in (1, 2)]
    compared, _ = fronts([*runs, record("kl", 1, 0, 0.7, 0.9) | {"contract": {"met": True}}])
    assert [(front.method, front.settings, front.labels) for front in compared] == [
        ("kl", 2, ("strength 1", "strength 2")),
        ("contract (kl)", 1, ("",)),
    ]


@pytest.mark.parametrize("count", [8, 9])
def test_too_many_methods_for_one_panel_have_one_each(tmp_path, count):
    runs = [record(f"m{n}", s, 0, 0.6 + 0.1 * s, 0.9 - 0.1 * s) for n in range(count) for s in (1, 2)]
    for run in runs:
        run["original"]["n"] = run["new"]["n"] = 100
    draw_fronts(*fronts(runs), runs, tmp_path / "many")
    drawn = (tmp_path / "many.svg").read_text()
    assert all(f">m{n}<" in drawn for n in range(count))
    assert drawn.count('stroke-dasharray="4,4"') == (1 if count == 8 else 9), "one line of the base a panel"
    assert ("grey: all the others" in drawn) == (count == 9)
