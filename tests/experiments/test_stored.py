"""The stored results are those of the experiments as they are written today: none of them would be run again."""

import json

import pytest

from experiments import article, bar, base, computation, floor, fronts
from experiments.cached import portable
from fft.commands.demo import base_folder
from fft.experiment import completed


@pytest.mark.parametrize("program", [article, bar, computation, floor, fronts], ids=lambda program: program.__name__)
def test_stored_results_are_of_the_experiments_of_today(program, minilm, monkeypatch):
    monkeypatch.setattr(base, "cached_base", lambda kind, recipe, console: base_folder(kind, recipe) / "model")
    experiments = program.experiments()
    if program is floor:
        experiments = {name: one for by_name in experiments.values() for name, one in by_name.items()}
    stored = json.loads((article.RESULTS / f"{program.__name__.rpartition('.')[2]}.json").read_text(encoding="utf-8"))
    assert set(stored) <= set(experiments)
    for name, record in stored.items():
        assert completed(record["experiment"]) == portable(experiments[name]), name
