"""docs/own_loop.md: its program runs, is short, uses public names alone, and gives the bits of `fft.tune`."""

import re
import shutil
from pathlib import Path

import pytest

import fft
from tests.helpers.tiny_runs import weights

PAGE = Path(__file__).parents[2] / "docs" / "own_loop.md"


@pytest.fixture(scope="module")
def tiny(dropping):
    """Bases with dropout."""
    return dropping


def program():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_it_is_short_and_uses_public_names_alone():
    assert len(program().splitlines()) <= 30
    assert re.findall(r"^(?:import|from) .*", program(), re.MULTILINE) == ["import fft"]
    assert set(re.findall(r"\bfft\.(\w+)", program())) <= set(fft.__all__)


def test_it_gives_the_bits_of_a_run(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny / "bert", "base")
    for name in ("new.csv", "original.csv"):
        shutil.copy(tiny / name, name)
    names = {}
    exec(compile(program(), str(PAGE), "exec"), names)
    told = capsys.readouterr().out
    assert told.count("Change(metric='accuracy'") == 2 and len(told.splitlines()) == 12 + 2
    experiment = names["experiment"]
    parts = experiment.model, experiment.new, experiment.original, experiment.method
    run = fft.tune(*parts, out="run", keep="latest", verbose=False, **vars(experiment.optim))
    assert run.record["kept_step"] == 12 and weights("own") == weights("run")
