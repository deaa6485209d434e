"""`fft tune` from a checkpoint and two files to a run folder: what is in it, what it says, and that it repeats."""

import json
import math

import pytest
from safetensors.numpy import load_file

from fft.run.loop import is_scoring_step
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import events, finish, outcome, record, start, tune


@pytest.fixture(scope="module")
def tiny(dropping):
    """Bases with dropout."""
    return dropping


@pytest.fixture(scope="module")
def default(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "default"
    return tune(tiny, out, "--lr", 1e-2, "--eval-every", None, new="mixed.csv"), out


def test_the_run_folder_holds_everything(default):
    _, out = default
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("experiment.json", "identity.json", "run.json", "metrics.jsonl", "lock", "heads", "prepared"),
        *("checkpoints", "rows", "model", "report.html", "history.svg", "history.png"),
    }
    model = {path.name for path in (out / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "fft_heads.json", "fft_heads.safetensors"} <= model
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]
    steps = {f"{record(out)[step]:08d}" for step in ("best_step", "steps")}
    held = {path.name: {part.name for part in path.iterdir()} for path in (out / "checkpoints").iterdir()}
    assert held == dict.fromkeys(steps, frozenset({"arrays", "extra.json", "manifest.json"}))


def test_json_is_the_record_and_all_there_is_on_standard_output(default):
    answer, out = default
    assert answer.json == record(out)
    assert "on the probe" in answer.err and "heads/new" in answer.err and "undecided" in answer.err


def test_few_test_rows_leave_the_verdict_undecided_with_the_number_that_would_decide(default):
    answer, out = default
    verdict = record(out)["verdict"]
    assert answer.code == 4 and verdict["outcome"] == "undecided" and verdict["tolerance"] == 0.01
    assert verdict["needed"] > record(out)["original"]["n"]


def test_the_record_says_what_was_run_on_what(default, tiny):
    found = record(default[1])
    experiment = found["experiment"]
    assert experiment["model"] == str(tiny / "bert") and experiment["optim"]["lr"] == 1e-2 and experiment["seed"] == 0
    assert experiment == json.loads((default[1] / "experiment.json").read_text())
    assert len(found["experiment_hash"]) == 64 and len(found["base_sha256"]) == 64
    assert (
        set(found["git"]) == {"commit", "dirty"} and found["versions"]["jax"] and found["device"]["platform"] == "cpu"
    )
    for task, file in (("new", "mixed.csv"), ("original", "original.csv")):
        data = found["data"][task]
        assert data["source"] == str(tiny / file)
        assert sum(split["rows"] for split in data["splits"].values()) == 240
        assert all(len(split["sha256"]) == 64 for split in data["splits"].values())
    assert set(found["seconds"]) >= {"total", "train", "scoring", "prepare", "saving"}
    assert found["seconds"]["total"] == pytest.approx(sum(v for k, v in found["seconds"].items() if k != "total"))


def test_the_record_counts_parameters_by_path(default, tiny):
    parameters = record(default[1])["parameters"]
    base = load_file(tiny / "bert" / "model.safetensors")
    total = sum(value.size for value in base.values()) + 3 * tiny_checkpoint.D + 3
    assert parameters["total"] == total == sum(math.prod(row["shape"]) for row in parameters["table"])
    rows = {row["path"]: row for row in parameters["table"]}
    frozen = [path for path, row in rows.items() if not row["trained"]]
    assert sorted(frozen) == ["heads/original/out/bias", "heads/original/out/kernel"]
    assert rows["layers/1/mlp/up/kernel"] == {
        **{"path": "layers/1/mlp/up/kernel", "shape": [16, 32]},
        **{"trained": True, "multiplier": 1.0},
    }
    assert parameters["trained"] == total - 34
    assert parameters["percent"] == pytest.approx(100 * parameters["trained"] / total)


def test_both_tasks_are_scored_at_least_eight_times_beside_the_base(default):
    found = record(default[1])
    history, rows = found["history"], found["data"]["new"]["splits"]["train"]["rows"]
    assert found["steps"] == math.ceil(3 * rows / 32) and found["stopped"] == "steps"
    assert history[0]["step"] == 0 and history[-1]["step"] == found["steps"] and len(history) - 1 >= 8
    assert history[0]["original"] == 1.0 and history[0]["loss"] is None
    for entry in history[1:]:
        assert 0 <= entry["new"] <= 1 and 0 <= entry["original"] <= 1 and entry["loss"] > 0


@pytest.mark.parametrize(
    ("steps", "every", "scored"),
    [
        (16, None, [2, 4, 6, 8, 10, 12, 14, 16]),
        (20, None, [3, 5, 8, 10, 13, 15, 18, 20]),
        (3, None, [1, 2, 3]),
        (7, 3, [3, 6, 7]),
    ],
)
def test_scorings_are_spread_evenly_and_the_last_step_is_one(steps, every, scored):
    assert [step for step in range(1, steps + 1) if is_scoring_step(step, steps, every)] == scored


def test_before_and_after_are_on_the_test_split_with_their_intervals(default):
    found = record(default[1])
    change = found["original"]
    assert change["change"] == pytest.approx(change["after"] - change["before"])
    assert change["low"] <= change["change"] <= change["high"] and 0 <= change["mcnemar_p"] <= 1
    assert found["original"]["before"] == 1.0
    for task in ("original", "new"):
        alone = found["scores"][task]
        assert alone["n"] == found[task]["n"] == found["data"][task]["splits"]["test"]["rows"]
        assert alone["low"] <= alone["value"] == found[task]["after"] <= alone["high"]


def test_a_fresh_head_has_no_score_before_and_any_trained_point_is_better(default):
    answer, folder = default
    found = record(folder)
    assert found["heads"].keys() == {"original", "new"} and found["experiment"]["head"] == "new"
    nothing = ("before", "change", "low", "high", "mcnemar_p", "changed")
    assert all(found["new"][name] is None for name in nothing) and found["new"]["after"] > 0
    first, *later = found["history"]
    assert first["new"] is None and first["original"] == 1.0 and first["combined"] < min(e["combined"] for e in later)
    assert "step 0: original 1.000 on the probe" in answer.err and "no new score before" in answer.err
    assert found["verdict"]["drop"] == -found["original"]["change"]


def test_metrics_hold_every_scoring_in_order(default):
    found = events(default[1])
    assert found[0]["event"] == "start" and found[-1]["event"] == "end"
    scores = [event for event in found if event["event"] == "score"]
    history = record(default[1])["history"]
    assert [{k: v for k, v in event.items() if k != "event"} for event in scores] == history
    steps = [event for event in found if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, record(default[1])["steps"] + 1))
    assert all(event["loss"] > 0 and event["grad_norm"] > 0 and event["penalty"] == 0 for event in steps)


def test_a_finished_run_is_not_run_again(default, tiny):
    answer, out = default
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "lock"}
    again = tune(tiny, out, "--lr", 1e-2, "--eval-every", None, new="mixed.csv")
    assert (again.code, again.json) == (answer.code, answer.json)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_a_process_repeats_the_run_from_its_experiment_bit_for_bit(default, tmp_path):
    answer, out = default
    again = finish(start("tune", "--config", out / "experiment.json", "--out", tmp_path / "again", "--json"))
    assert again.code == answer.code and again.json == record(tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(out)
    assert record(tmp_path / "again")["experiment_hash"] == record(out)["experiment_hash"]
    assert not any(word in again.err for word in ("Traceback", "Warning", "warning"))
