"""What the demo says before it begins, and after its first steps."""

import io

import pytest
from rich.console import Console

from fft.commands import demo
from fft.commands.demo import BASE_ROWS, COSTS, FIRST_STEPS, NEW_ROWS, RUNS, SHOWN, Pace, experiments, plan
from tests.helpers.tiny_runs import fft, refused


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A Pace whose steps take 0.5 s, every third 6 s more, as one that compiles; and what it printed."""
    printed, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(demo, "base_folder", lambda: tmp_path / "base")
    monkeypatch.setattr(demo.time, "monotonic", lambda: clock[0])
    pace = Pace(Console(file=printed, width=200), tmp_path)

    def step(number):
        clock[0] += 6.5 if number % 3 == 0 else 0.5
        pace.watch({"event": "step", "step": number})

    return tmp_path, pace, step, printed


def test_the_estimate_is_of_steps_that_do_not_compile(watched):
    _, pace, step, printed = watched
    pace.watch({"event": "start", "step": 0})
    for number in range(FIRST_STEPS + 10):
        assert (printed.getvalue() == "") == (number <= FIRST_STEPS)
        step(number)
    minutes = round(0.5 * sum(COSTS[name] for name in ("base", *SHOWN)) / 60)
    assert printed.getvalue() == f"a step takes 0.50 s here, so the whole demo takes about {minutes} min\n", "once"


def test_what_is_finished_takes_no_time(watched):
    folder, _, step, printed = watched
    for name in ("base", "full", "kl"):
        (folder / name).mkdir()
        (folder / name / "run.json").write_text("{}")
    for number in range(FIRST_STEPS + 1):
        step(number)
    left = sum(COSTS[name] for name in SHOWN if name not in ("full", "kl"))
    assert f"about {round(0.5 * left / 60)} min" in printed.getvalue()


def test_the_plan_and_the_costs_are_of_the_recipes_that_run():
    assert set(COSTS) == {"base", *RUNS} and set(SHOWN) < set(RUNS)
    for words in (
        f"{BASE_ROWS:,} movie snippets",
        f"{NEW_ROWS:,} tweets",
        "4 recipes",
        "full, lora, kl, contract (kl)",
    ):
        assert words in plan(SHOWN)
    assert "2 recipes" in plan(("ewc", "freeze+layerwise")) and "kl" not in plan(("ewc", "freeze+layerwise"))
    assert list(experiments("base", ("ewc", "full"))) == ["ewc", "full"]


def test_a_demo_without_a_recipe_is_refused_before_anything_is_fetched(tmp_path):
    refused(fft("demo", "--out", tmp_path / "out", "--recipes"), "--recipes names none: give at least one of full,")
    assert not (tmp_path / "out").exists()
