import dataclasses
import json

import pytest

from fft.core.errors import InputError
from fft.disk.files import experiment_hash
from fft.experiment import Data, Experiment, Optim, Retention, completed, from_json, load
from fft.methods import EWC, LoRA

EXPERIMENT = Experiment(
    "m", Data("a.csv", pair="b"), Data("b.csv"), LoRA(rank=4) + EWC(), Optim(lr=1e-3), head="shared"
)


DATA = {"validation": None, "test": None, "text": "text", "pair": None, "label": "label", "kind": "classification"}
DATA |= {"metric": None, "name": None, "train_rows": None}
PASS = {"estimator": "mc", "samples": 512, "draws": 1, "batch_size": 32, "way": "fused", "chunk": 1, "converged": 0.0}
LORA = {"name": "lora", "rank": 4, "alpha": 16.0, "dropout": 0.0, "targets": "query,value", "factored": False}
EWC_OF_TODAY = {"name": "ewc", **PASS, "storage": "float32", "fisher": None, "strength": 10.0, "unit": "plain"}
OPTIM = {"lr": 1e-4, "epochs": 1.0, "steps": None, "batch_size": 32, "accumulate": 1, "schedule": "linear"}
RETENTION = {"tolerance": 0.01, "drop_weight": 1.0, "patience": 0, "max_drop": "0.01", "keep": "best"}
RECORDED = {
    "model": "base",
    "new": {"source": "new.csv", **DATA},
    "original": {"source": "old.csv", **DATA},
    "method": [LORA, EWC_OF_TODAY],
    "optim": {**OPTIM, "warmup": 0.1, "weight_decay": 0.01, "clip": 1.0},
    "retention": {**RETENTION, "eval_every": None, "probe": 128},
    **{"head": "new", "original_head": None, "max_length": None, "seed": 3, "unlabelled": None},
}
HASH = "f8772b5f5859515ec1d6e43ff615aeb6818c79de736a85ca525199e3a7698a0a"  # as a run recorded it


def test_what_a_record_lacks_had_its_default_and_the_hash_stays():
    """A setting that is added later must not change the hash of what was recorded: leave its default out there."""
    assert experiment_hash(completed(RECORDED)) == experiment_hash(RECORDED) == HASH
    older = RECORDED | {"optim": {k: v for k, v in RECORDED["optim"].items() if k != "schedule"}}
    older = older | {"method": [LORA, {k: v for k, v in EWC_OF_TODAY.items() if k != "unit"}]}
    del older["max_length"]
    assert completed(older) == RECORDED and experiment_hash(completed(older)) == HASH
    assert completed(older | {"optim": {"schedule": "cosine"}})["optim"]["schedule"] == "cosine"
    unreadable = {"method": [{"name": "of another version"}]}
    assert completed(unreadable) == unreadable


def test_a_later_setting_is_recorded_where_it_is_not_at_its_default():
    assert "checkpoints" not in EXPERIMENT.to_json()["retention"]
    kept = dataclasses.replace(EXPERIMENT, retention=Retention(checkpoints="keep"))
    assert kept.to_json()["retention"]["checkpoints"] == "keep" and from_json(kept.to_json()) == kept
    assert experiment_hash(kept.to_json()) != experiment_hash(EXPERIMENT.to_json())
    said = completed(RECORDED | {"retention": {**RECORDED["retention"], "checkpoints": "tidy"}})
    assert experiment_hash(said) == HASH


def test_json_and_back():
    assert from_json(json.loads(json.dumps(EXPERIMENT.to_json()))) == EXPERIMENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": {"lrr": 1.0}}, r"experiment\.optim\.lrr"),
        ({"optim": {"lr": "1e-3"}}, r"experiment\.optim\.lr"),
        ({"optim": {"lr": -1.0}}, r"experiment\.optim\.lr: .* greater than 0, got -1"),
        ({"optim": {"steps": 0}}, r"experiment\.optim\.steps: .* greater than or equal to 1, got 0"),
        ({"optim": {"warmup": 1.5}}, r"experiment\.optim\.warmup: .* less than or equal to 1, got 1\.5"),
        ({"retention": {"tolerance": -0.1}}, r"experiment\.retention\.tolerance: .* greater than or equal to 0"),
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
