import json

import pytest

from fft.errors import InputError
from fft.experiment import Data, Experiment, Optim, from_json, load
from fft.methods import EWC, LoRA

EXPERIMENT = Experiment(
    "m", Data("a.csv", pair="b"), Data("b.csv"), LoRA(rank=4) + EWC(), Optim(lr=1e-3), head="shared"
)


def test_json_and_back():
    assert from_json(json.loads(json.dumps(EXPERIMENT.to_json()))) == EXPERIMENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": {"lrr": 1.0}}, r"experiment\.optim\.lrr"),
        ({"optim": {"lr": "1e-3"}}, r"experiment\.optim\.lr"),
        ({"optim": {"lr": -1.0}}, "--lr must be a positive number"),
        ({"optim": {"steps": 0}}, "--steps must be at least 1"),
        ({"optim": {"warmup": 1.5}}, "--warmup must be between 0 and 1"),
        ({"retention": {"tolerance": -0.1}}, "--tolerance must be at least 0"),
        ({"head": "both"}, r"experiment\.head"),
        ({"colour": 1}, "unknown colour"),
        ({"model": None}, r"experiment\.model"),
        ({"original": None}, "needs data of the original task"),
    ],
)
def test_bad_experiments_are_refused_by_path(change, message):
    with pytest.raises(InputError, match=message):
        from_json(EXPERIMENT.to_json() | change)


def test_missing_parts_are_named():
    with pytest.raises(InputError, match="new is missing"):
        from_json({"model": "m"})


def test_files_that_are_not_experiments(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load(tmp_path / "bad.json")
