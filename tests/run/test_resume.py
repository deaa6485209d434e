"""A second `fft tune` on the folder of a run that was killed, stopped, damaged or changed."""

import json
import os
import random
import shutil
import signal
import time
from functools import partial

import numpy as np
import pytest

from fft import restore
from fft.commands.failures import UNFORESEEN
from fft.disk.checkpoint import Checkpoints
from fft.disk.folder import FolderLock
from fft.stats import retention
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import at_event, events, fail, fft, finish, interrupt, outcome, start, tune

STEPS = 12
FLAGS = (
    "--steps",
    STEPS,
    "--batch-size",
    16,
    "--lr",
    1e-2,
    "--tolerance",
    1,
    "--eval-every",
    3,
    "--method",
    "full+ewc+replay",
)
FLAGS = (*FLAGS, "--ewc.samples", 32, "--keep", "latest")


@pytest.fixture(scope="module")
def tiny(dropping):
    """Bases with dropout."""
    return dropping


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The folder of the same run, never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert tune(tiny, out, *FLAGS).code == 0
    return out


def begin(tiny, out, *flags):
    """The run in a process that only reads the compilation cache, so that a kill does not damage it."""
    data = ("--new", tiny / "new.csv", "--original", tiny / "original.csv")
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000000"}
    return start("tune", "--model", tiny / "bert", *data, "--out", out, *FLAGS, *flags, env=environment)


def wait_for(process, condition):
    """Wait until the condition holds; fail if the process ends before."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def scored(out, step):
    """Whether the run has scored a step."""
    path = out / "metrics.jsonl"
    return path.exists() and any(
        event.get("event") == "score" and event["step"] >= step
        for event in map(json.loads, path.read_text().splitlines(keepends=False)[:-1])
    )


# --- kills ---


def test_killed_at_random_moments_the_run_ends_bit_equal(tiny, whole, tmp_path):
    out, rng = tmp_path / "run", random.Random(0)
    for moment in (lambda: (out / "prepared").exists(), lambda: scored(out, 0)):
        process = begin(tiny, out)
        wait_for(process, moment)
        time.sleep(rng.uniform(0, 0.7))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    answer = tune(tiny, out, *FLAGS)
    assert answer.code == 0 and outcome(out) == outcome(whole)
    scores = [event["step"] for event in events(out) if event["event"] == "score"]
    assert scores == [0, 3, 6, 9, 12], "no scoring is lost or told twice"
    assert [event["event"] for event in events(out)].count("end") == 1
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("last", [("score", 0), ("save", STEPS)])
def test_a_crash_before_the_first_save_or_after_the_last_tells_nothing_twice(tiny, whole, tmp_path, last):
    out = tmp_path / "run"
    with at_event(*last, fail):
        assert tune(tiny, out, *FLAGS).code == UNFORESEEN
    assert Checkpoints(out / "checkpoints").steps() == ([] if last[0] == "score" else [9, STEPS])
    if last[0] == "save":
        scored = fft("eval", "--model", out, "--task", tiny / "new.csv")
        assert scored.code == 2 and "is not finished" in scored.err
    assert tune(tiny, out, *FLAGS).code == 0 and outcome(out) == outcome(whole)
    told = [event["event"] for event in events(out)]
    assert told.count("score") == 5 and told.count("end") == 1


def test_a_signal_saves_and_the_next_call_completes_the_run(tiny, whole, tmp_path):
    out = tmp_path / "run"
    process = begin(tiny, out, "--json")
    wait_for(process, lambda: scored(out, 3))
    process.send_signal(signal.SIGTERM)
    answer = finish(process)
    assert answer.code == 143 and answer.json["exit_code"] == 143 and "Traceback" not in answer.err
    assert answer.err.splitlines()[-1] == "fft: stopped by SIGTERM; run the same command again to continue"
    last = Checkpoints(out / "checkpoints").steps()[-1]
    assert last >= 3 and not (out / "run.json").exists() and not (out / "model").exists()
    again = tune(tiny, out, *FLAGS)
    assert again.code == 0 and f"resuming at step {last} of {STEPS}" in again.err
    assert outcome(out) == outcome(whole)


def test_a_signal_between_two_scorings_saves_the_step_it_meets(tiny, whole, tmp_path):
    out = tmp_path / "run"
    with at_event("step", 4, partial(interrupt, signal.SIGINT)):
        answer = tune(tiny, out, *FLAGS)
    assert answer.code == 130 and answer.json["exit_code"] == 130
    assert answer.err.splitlines()[-1] == "fft: stopped by SIGINT; run the same command again to continue"
    assert Checkpoints(out / "checkpoints").steps()[-1] == 5
    assert tune(tiny, out, *FLAGS).code == 0 and outcome(out) == outcome(whole)


def test_a_signal_during_preparation_ends_at_once(tiny, tmp_path):
    """SIGTERM comes as soon as the run says that it prepares the methods; no batch of the Fisher pass follows."""
    out = tmp_path / "run"
    with at_event("say", None, lambda: (out / "heads").exists() and interrupt()):
        answer = tune(tiny, out, *FLAGS)
    assert answer.code == 143 and (out / "heads").exists() and not (out / "prepared").exists()
    assert not (out / "checkpoints").exists()


# --- damage ---


@pytest.fixture(scope="module")
def stopped_once(tiny, tmp_path_factory):
    """A run that was stopped right after it scored step 6."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with at_event("score", 6, interrupt):
        assert tune(tiny, out, *FLAGS).code == 143
    assert Checkpoints(out / "checkpoints").steps()[-1] == 6
    return out


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A copy of that run."""
    return shutil.copytree(stopped_once, tmp_path / "run")


def damage(step):
    """Flip a bit of the largest file of a saved step."""
    files = [path for path in (step / "arrays").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_damaged_step_is_passed_over_with_a_warning_and_the_end_is_the_same(tiny, whole, stopped):
    damage(stopped / "checkpoints" / "00000006")
    answer = tune(tiny, stopped, *FLAGS)
    assert answer.code == 0 and "warning: step 6" in answer.err and "resuming at step 3" in answer.err
    assert outcome(stopped) == outcome(whole)
    scores = [event["step"] for event in events(stopped) if event["event"] == "score"]
    assert scores == [0, 3, 6, 9, 12]


def test_a_torn_last_line_of_the_log_goes_without_a_word(tiny, whole, stopped):
    log = stopped / "metrics.jsonl"
    log.write_bytes(log.read_bytes() + b'{"event": "step", "st')
    answer = tune(tiny, stopped, *FLAGS)
    assert answer.code == 0 and outcome(stopped) == outcome(whole)
    assert "metrics.jsonl" not in answer.err
    told, wanted = ([(e["event"], e["step"]) for e in events(out) if e["event"] != "start"] for out in (stopped, whole))
    assert told == wanted


@pytest.mark.parametrize("cut", ["the middle", "all", "half of the last line"])
def test_events_that_the_log_lost_are_missed_with_a_warning(tiny, whole, stopped, cut):
    log = stopped / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["event"] == "score"
    kept = {"the middle": lines[:2] + lines[4:], "all": [], "half of the last line": [*lines[:-1], lines[-1][:30]]}[cut]
    log.write_bytes(b"".join(kept))
    answer = tune(tiny, stopped, *FLAGS)
    assert answer.code == 0 and outcome(stopped) == outcome(whole)
    missing = {"the middle": "2 of the 9", "all": "9 of the 9", "half of the last line": "1 of the 9"}[cut]
    assert f"metrics.jsonl lacks {missing} steps and scores up to step 6" in answer.err


def test_where_the_best_step_is_damaged_the_latest_is_kept_with_a_warning(tiny, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(retention, "best", lambda history: min(1, len(history) - 1))
    with at_event("save", STEPS, lambda: damage(out / "checkpoints" / "00000003")):
        answer = tune(tiny, out, *FLAGS[:-1], "best")
    assert answer.code == 0 and "the best step cannot be kept, the latest good one is" in answer.err
    assert (answer.json["best_step"], answer.json["kept_step"]) == (3, STEPS)


# --- changes ---


def test_a_changed_experiment_is_refused_with_the_difference(tiny, stopped):
    before = sorted(stopped.rglob("*"))
    answer = tune(tiny, stopped, *FLAGS, "--lr", 2e-2, "--ewc.strength", 5)
    assert answer.code == 2 and "holds another experiment" in answer.err
    assert "optim.lr: 0.01 -> 0.02" in answer.err and "5.0" in answer.err and answer.err.startswith("fft: ")
    assert sorted(stopped.rglob("*")) == before
    assert tune(tiny, stopped, *FLAGS).code == 0, "the right call still goes on"


def test_a_setting_that_a_folder_does_not_know_had_its_default(tiny, stopped):
    path = stopped / "experiment.json"
    whole = json.loads(path.read_text())
    older = whole | {"optim": {k: v for k, v in whole["optim"].items() if k != "schedule"}}
    del older["max_length"], older["method"][1]["unit"], older["retention"]["drop_weight"]
    assert older["method"][1]["name"] == "ewc"
    try:
        path.write_text(json.dumps(older))
        answer = tune(tiny, stopped, *FLAGS, "--schedule", "cosine")
        assert answer.code == 2 and 'optim.schedule: "linear" -> "cosine"' in answer.err
        assert "unit" not in answer.err and "max_length" not in answer.err
        assert tune(tiny, stopped, *FLAGS).code == 0
    finally:
        path.write_text(json.dumps(whole))


def test_another_file_under_the_same_name_is_refused(tiny, tmp_path, stopped):
    path = tiny / "new.csv"
    content = path.read_text()
    try:
        path.write_text(content.replace("the", "a", 1))
        answer = tune(tiny, stopped, *FLAGS)
    finally:
        path.write_text(content)
    assert answer.code == 2 and "a run on other weights or data" in answer.err and "data.new." in answer.err
    assert not (stopped / "run.json").exists()


def test_other_weights_under_the_same_name_are_refused(tiny, stopped):
    path = tiny / "bert" / "model.safetensors"
    content = path.read_bytes()
    try:
        tiny_checkpoint.write_checkpoint(tiny / "bert", seed=9)
        answer = tune(tiny, stopped, *FLAGS)
        exported = fft("export", stopped, "--out", stopped.parent / "hf")
    finally:
        path.write_bytes(content)
    assert answer.code == 2 and "base_sha256" in answer.err
    assert exported.code == 2 and "other weights" in exported.err
    assert fft("export", stopped, "--out", stopped.parent / "hf").code == 0, "a stopped run can be exported"


def test_a_second_process_on_the_same_folder_is_refused(tiny, whole, tmp_path):
    with FolderLock(tmp_path / "run"):
        answer = tune(tiny, tmp_path / "run", *FLAGS)
    assert answer.code == 2 and f"is in use by process {os.getpid()}" in answer.err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"lock"}
    with FolderLock(whole):
        answer = tune(tiny, whole, *FLAGS)
    assert answer.code == 2 and "reading the checkpoint" not in answer.out + answer.err, (
        "it need not read anything to know"
    )


# --- numbers that are not finite ---


def test_a_short_run_without_a_finite_step_is_no_result(tmp_path, tiny):
    for _ in range(2):  # nor when the same command is given again
        answer = tune(tiny, tmp_path / "run", "--method", "l2sp", "--l2sp.strength", 2e38, "--steps", 3)
        assert answer.code == 2 and "not finite 3 steps in a row, up to step 3: lower --lr" in answer.err
        assert not (tmp_path / "run" / "run.json").exists()


def test_ten_steps_that_are_not_finite_stop_the_run_and_keep_the_state(tmp_path, tiny):
    folder = tmp_path / "huge"
    tiny_checkpoint.write_checkpoint(folder)
    flags = ("--steps", 40, "--batch-size", 16, "--lr", 1e30, "--schedule", "constant", "--warmup", 0, "--clip", 0)
    answer = tune(tiny, tmp_path / "run", *flags, "--eval-every", 4, model=folder)
    assert answer.code == 2 and "not finite 10 steps in a row" in answer.err and "lower --lr" in answer.err
    assert not (tmp_path / "run" / "run.json").exists() and not (tmp_path / "run" / "model").exists()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    last = checkpoints.steps()[-1]
    again = tune(tiny, tmp_path / "run", *flags, "--eval-every", 4, model=folder)
    assert again.code == 2 and "not finite 10 steps in a row" in again.err and checkpoints.steps()[-1] == last
    assert last < 40
    params = restore(tmp_path / "run", "latest").params
    assert np.isfinite(np.asarray(params["pooler"]["kernel"])).all()
    again = tune(tiny, tmp_path / "run", *flags, "--eval-every", 4, model=folder)
    assert again.code == 2 and "not finite" in again.err, "asked again, it does not go on as if nothing was"
