"""`fft tune` with every kind of method, family, task and head: what each leaves in the run folder."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fft import models, restore
from fft.core.tree import flatten
from fft.disk.artefact import load_artefact
from fft.experiment import Data, Experiment, Optim
from fft.run.run import run
from fft.run.scoring import Scorer
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import events, fft, record, tune

QUICK = ("--steps", 16, "--batch-size", 16, "--lr", 1e-2)


def leaves(folder):
    """Return the parameters of a checkpoint by path, as numpy."""
    return {path: np.asarray(leaf) for path, leaf in flatten(models.load(folder).params).items()}


def changed(tiny, out, model="bert"):
    """Return the paths of the base's parameters that differ in the run's model."""
    base, after = leaves(tiny / model), leaves(out / "model")
    return {path for path, value in base.items() if value.tobytes() != after[path].tobytes()}


# --- methods ---


@pytest.fixture(scope="module")
def lora_ewc(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "lora+ewc"
    flags = ("--method", "lora+ewc", "--lora.rank", 4, "--ewc.strength", 100, "--ewc.samples", 16)
    return tune(tiny, out, *QUICK, *flags, "--tolerance", 1), out


def test_a_tolerance_of_everything_passes_with_exit_code_0(lora_ewc):
    answer, out = lora_ewc
    assert answer.code == 0 and record(out)["verdict"]["outcome"] == "pass" and record(out)["name"] == "lora+ewc"


def test_the_settings_of_each_method_are_flags_and_are_recorded(lora_ewc):
    lora, ewc = record(lora_ewc[1])["experiment"]["method"]
    assert (lora["name"], lora["rank"], ewc["name"], ewc["strength"], ewc["samples"]) == ("lora", 4, "ewc", 100.0, 16)


def test_lora_changes_the_targeted_kernels_and_nothing_else_of_the_base(lora_ewc, tiny):
    wanted = {f"layers/{i}/attention/{role}/kernel" for i in range(2) for role in ("query", "value")}
    assert changed(tiny, lora_ewc[1]) == wanted


def test_wise_at_0_is_the_base_with_the_trained_head_in_every_score_and_when_restored(tiny, tmp_path):
    out = tmp_path / "wise"
    answer = tune(tiny, out, *QUICK, "--method", "full+wise", "--wise.alpha", 0, "--keep", "latest")
    assert answer.code == 0 and changed(tiny, out) == set()
    told = record(out)
    assert all(entry["original"] == told["history"][0]["original"] for entry in told["history"])
    fresh = flatten(load_artefact(out / "heads")[0])["new/out/kernel"]
    assert np.abs(leaves(out / "model")["heads/new/out/kernel"] - fresh).max() > 1e-3
    saved, restored = leaves(out / "model"), {p: np.asarray(v) for p, v in flatten(restore(out).params).items()}
    assert all(saved[path].tobytes() == value.tobytes() for path, value in restored.items())


def test_lora_trains_adapter_and_head_alone(lora_ewc):
    parameters = record(lora_ewc[1])["parameters"]
    trained = {row["path"] for row in parameters["table"] if row["trained"]}
    modules = [f"layers/{i}/attention/{role}" for i in range(2) for role in ("query", "value")]
    wanted = {f"{module}/{leaf}" for module in modules for leaf in ("lora_a", "lora_b")}
    assert trained == wanted | {"heads/new/out/kernel", "heads/new/out/bias"}
    assert parameters["trained"] == 8 * 4 * 16 + 3 * 16 + 3


def test_the_fisher_information_is_kept_and_pulls_from_the_second_step_on(lora_ewc):
    tree, _ = load_artefact(lora_ewc[1] / "prepared")
    fisher = flatten(tree)
    assert all(np.all(np.asarray(leaf) >= 0) for leaf in fisher.values())
    assert "ewc/fisher/layers/0/attention/query/kernel" in fisher and not any("heads/new" in path for path in fisher)
    penalties = [event["penalty"] for event in events(lora_ewc[1]) if event["event"] == "step"]
    assert penalties[0] == 0 and all(penalty > 0 for penalty in penalties[1:])


def test_freeze_layerwise_and_ewc_together_on_roberta_with_accumulation(tmp_path, tiny):
    tiny_checkpoint.write_checkpoint(tmp_path / "roberta", "roberta")
    out = tmp_path / "run"
    flags = ("--method", "freeze+layerwise+ewc", "--layerwise.decay", 0.5, "--ewc.samples", 8, "--lr", 1e-2)
    flags = (*flags, "--epochs", 1, "--batch-size", 8, "--accumulate", 3)
    answer = tune(tiny, out, *flags, model=tmp_path / "roberta")
    found = record(out)
    assert answer.code in (0, 1, 4) and found["original"]["before"] > 0.9
    rows = found["data"]["new"]["splits"]["train"]["rows"]
    assert found["steps"] == -(-rows // 24)
    multiplier = {row["path"]: row["multiplier"] for row in found["parameters"]["table"]}
    assert multiplier["embed/word/embedding"] == multiplier["layers/0/mlp/up/kernel"] == 0
    assert multiplier["layers/1/mlp/up/kernel"] == 0.5 and multiplier["heads/new/dense/kernel"] == 1
    frozen = {path for path, value in multiplier.items() if value == 0}
    after = leaves(out / "model")
    base = leaves(tmp_path / "roberta")
    assert {path for path in base if base[path].tobytes() == after[path].tobytes()} == frozen


# --- kinds of task ---


def test_pairs_and_no_original_task_on_distilbert(tmp_path, tiny):
    tiny_checkpoint.write_checkpoint(tmp_path / "distilbert", "distilbert")
    tiny_checkpoint.write_pairs(tmp_path / "pairs.csv", rows=120)
    columns = ("--new-text", "first", "--new-pair=second", "--new.label", "same")
    data = {"model": tmp_path / "distilbert", "new": tmp_path / "pairs.csv", "original": None}
    answer = tune(tiny, tmp_path / "run", *QUICK, "--steps", 8, *columns, **data)
    found = record(tmp_path / "run")
    assert answer.code == 0
    assert found["verdict"] is found["original"] is found["crossover"] is None
    assert found["data"].keys() == {"new"} and all(entry["original"] is None for entry in found["history"])
    assert found["heads"]["new"] == {"kind": "classification", "labels": ["no", "yes"]}
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


def test_regression_beside_a_classification_that_is_kept(tmp_path, tiny):
    tiny_checkpoint.write_targets(tmp_path / "targets.csv")
    columns = ("--new.kind", "regression", "--new-label", "score", "--new-metric", "rmse")
    columns += ("--tolerance", 1, "--eval-every", 4)
    answer = tune(tiny, tmp_path / "run", *QUICK, *columns, new=tmp_path / "targets.csv")
    found = record(tmp_path / "run")
    assert answer.code == 0 and found["new"]["metric"] == "rmse" and found["original"]["metric"] == "accuracy"
    first, *later = found["history"]
    assert first["new"] is None and first["combined"] is None, "nothing is worse than a fresh head's error"
    assert later[-1]["new"] < later[0]["new"] and found["best_step"] > 0
    drops = [max(0.0, first["original"] - entry["original"] - 1) for entry in later]
    combined = [-entry["new"] - drop for entry, drop in zip(later, drops, strict=True)]
    assert [entry["combined"] for entry in later] == pytest.approx(combined), "a smaller error must be better"
    task = ("--task", tmp_path / "targets.csv", "--task-kind", "regression", "--task-label", "score")
    scored = fft("eval", "--model", tmp_path / "run", *task, "--json").json
    assert scored["metric"] == "pearson" and scored["low"] < scored["score"] < scored["high"]
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["problem_type"] == "regression" and len(config["id2label"]) == 1


# --- heads ---


@pytest.fixture(scope="module")
def opposite(tiny, tmp_path_factory):
    """The original's own head learns the opposite labels."""
    out = tmp_path_factory.mktemp("runs") / "opposite"
    flags = ("--head", "shared", "--drop-weight", 0.5, "--eval-every", 3)
    return tune(tiny, out, *QUICK, "--steps", 24, *flags, new="opposite.csv"), out


def test_a_lost_original_task_fails_with_exit_code_1(opposite):
    answer, out = opposite
    found = record(out)
    assert answer.code == 1 and found["verdict"]["outcome"] == "fail" and found["verdict"]["needed"] is None
    assert found["original"]["after"] < 0.5 and found["original"]["high"] < -0.01 and found["new"]["after"] > 0.5
    assert found["original"]["mcnemar_p"] < 0.05


def test_the_crossover_is_the_first_scoring_beyond_the_tolerance(opposite):
    found = record(opposite[1])
    beyond = [entry["step"] for entry in found["history"] if 1.0 - entry["original"] > 0.01]
    assert found["crossover"] == beyond[0] > 0


def test_the_best_step_is_the_model(opposite):
    found = record(opposite[1])
    best = max(found["history"], key=lambda entry: entry["combined"])
    assert found["best_step"] == found["kept_step"] == best["step"]
    assert 0 < len(list((opposite[1] / "checkpoints").glob("0*"))) <= 3
    assert (opposite[1] / "checkpoints" / f"{best['step']:08d}").is_dir()


def test_a_shared_head_is_the_originals_and_stays_one_head(opposite):
    found = record(opposite[1])
    assert found["heads"].keys() == {"original"}
    assert "heads/original/out/kernel" in {row["path"] for row in found["parameters"]["table"] if row["trained"]}
    tensors = load_file(opposite[1] / "model" / "model.safetensors")
    assert tensors["classifier.weight"].shape == (2, 16)
    assert not (opposite[1] / "model" / "fft_heads.safetensors").exists()


def test_patience_stops_early_and_the_base_can_be_the_best(tmp_path, tiny):
    flags = ("--head", "shared", "--drop-weight", 5, "--patience", 2, "--eval-every", 2)
    answer = tune(tiny, tmp_path / "run", *QUICK, "--steps", 24, *flags, new="opposite.csv")
    found = record(tmp_path / "run")
    assert found["stopped"] == "patience" and found["steps"] < 24
    best = next(at for at, entry in enumerate(found["history"]) if entry["step"] == found["best_step"])
    assert len(found["history"]) - 1 - best == 2
    assert answer.code == 0 and found["best_step"] == 0 and changed(tiny, tmp_path / "run") == set()
    assert any("the base is kept" in note for note in found["notes"])
    assert "the base is kept, no scored step beat it: original accuracy" in answer.err
    assert "pass (base kept)" in fft("compare", tmp_path / "run").out
    assert "kept the base, step 0" in fft("export", tmp_path / "run", "--out", tmp_path / "base").out
    latest = fft("export", tmp_path / "run", "--out", tmp_path / "latest", "--step", "latest")
    assert latest.code == 0 and "kept the base" not in latest.out


def test_keep_latest_takes_the_last_step_whatever_it_cost(tmp_path, tiny):
    flags = ("--head", "shared", "--drop-weight", 5, "--keep", "latest")
    answer = tune(tiny, tmp_path / "run", *QUICK, "--steps", 24, *flags, new="opposite.csv")
    found = record(tmp_path / "run")
    assert answer.code == 1 and found["best_step"] == 0 and found["kept_step"] == found["steps"] == 24
    for which, folder in (
        ("best", tiny / "bert"),
        ("latest", tmp_path / "run" / "model"),
        (None, tmp_path / "run" / "model"),
    ):
        restored = flatten(restore(tmp_path / "run", which).params)
        assert all(np.array_equal(restored[path], leaf) for path, leaf in leaves(folder).items()), which


def test_original_head_fit_trains_a_head_on_the_frozen_base_first(tmp_path, tiny):
    flags = ("--original-head", "fit", "--tolerance", 1)
    answer = tune(tiny, tmp_path / "run", *QUICK, "--steps", 8, *flags, model="bare")
    found = record(tmp_path / "run")
    assert answer.code == 0 and found["original"]["before"] > 0.9
    assert any("original head original was fitted on the frozen base" in note for note in found["notes"])
    assert found["heads"]["original"]["labels"] == ["negative", "positive"]
    _, provenance = load_artefact(tmp_path / "run" / "heads")
    assert provenance["fitted"]["original"]["rows"] == found["data"]["original"]["splits"]["train"]["rows"]
    assert provenance["fitted"]["original"]["loss_last"] < 0.3 < provenance["fitted"]["original"]["loss_first"]


# --- several runs ---


def test_runs_that_share_a_base_and_its_rows_score_it_once(tiny, tmp_path, monkeypatch):
    counted, test = [], Scorer._test
    monkeypatch.setattr(Scorer, "_test", lambda self, params, tasks: counted.append(tasks) or test(self, params, tasks))
    model, new, original = (str(tiny / name) for name in ("bert", "new.csv", "original.csv"))

    def scores(name, known, max_length=16):
        experiment = Experiment(model, Data(new), Data(original), optim=Optim(steps=2), max_length=max_length)
        found = run(experiment, tmp_path / name, known=known).record
        return found["new"], found["original"]

    known = {}
    assert scores("alone", None) == scores("first", known) == scores("again", known)
    assert [set(tasks) for tasks in counted] == [{"original"}, {"new", "original"}] * 2 + [{"new", "original"}]
    assert len(known) == 1
    assert scores("shorter", known, max_length=4) and len(known) == 2


def test_a_fresh_head_is_not_the_noise_that_the_heads_of_the_base_started_from(tiny, tmp_path):
    def fresh_kernel(model, out):
        assert tune(tiny, out, "--steps", 1, "--batch-size", 8, model=model, original=None).code == 0
        (kernel,) = (
            leaf for path, leaf in flatten(load_artefact(out / "heads")[0]).items() if path.endswith("out/kernel")
        )
        return np.asarray(kernel).ravel()

    first = fresh_kernel(tiny / "bare", tmp_path / "first")
    second = fresh_kernel(tmp_path / "first" / "model", tmp_path / "second")
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.7


def test_without_original_data_the_new_task_may_still_go_on_with_the_bases_head(tiny, tmp_path):
    runs = {}
    for head in ("new", "shared"):
        flags = ("--head", head, "--steps", 2, "--batch-size", 8, "--keep", "latest")
        assert tune(tiny, tmp_path / head, *flags, original=None, new="opposite.csv").code == 0
        runs[head] = record(tmp_path / head)
    assert any("--head shared would go on" in note for note in runs["new"]["notes"]) and not runs["shared"]["notes"]
    assert runs["shared"]["new"]["before"] < 0.2 and runs["new"]["new"]["before"] is None
    trained = flatten(restore(tmp_path / "shared")[1]["heads"])
    base = flatten(models.load(tiny / "bert").params["heads"])
    assert trained.keys() == base.keys() and all(0 < abs(trained[p] - leaf).max() < 0.01 for p, leaf in base.items())
