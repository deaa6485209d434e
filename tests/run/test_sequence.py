"""`fft sequence` on tiny tasks: its stages, the score matrix, resuming, and what is refused."""

import json

import numpy as np
import pytest

from fft.core.errors import InputError
from fft.disk.artefact import load_artefact
from fft.experiment import Data, Retention
from fft.methods import EWC, KL, SI, Full, LoRA, LwF, PromptTuning, Replay
from fft.run.sequence import without_original
from fft.run.settings import SequenceSettings
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import fft, record

SHORT = ("--steps", 6, "--batch-size", 16, "--lr", 1e-2, "--eval-every", 3, "--json")


@pytest.fixture(scope="module")
def files(tiny):
    """Two domains of one task, and two tasks of their own."""
    found = tiny_checkpoint.sentences(240, 7)
    older = [(text, tiny_checkpoint.LABELS[f > 0]) for text, f, _ in found]
    houses = [(text, "house" if "house" in text else "none") for text, _, _ in tiny_checkpoint.sentences(240, 8)]
    write = tiny_checkpoint.write_csv
    return {
        "original": tiny / "original.csv",
        "opposite": tiny / "opposite.csv",
        "new": tiny / "new.csv",
        "older": write(tiny / "domain.csv", ("text", "label"), older),
        "house": write(tiny / "houses.csv", ("text", "label"), houses),
    }


def sequence(tiny, out, tasks, *flags):
    return fft(
        "sequence",
        "--model",
        tiny / "bert",
        "--tasks",
        *tasks,
        "--out",
        out,
        *SHORT,
        "--method",
        "ewc",
        "--ewc.samples",
        32,
        *flags,
    )


def told(out):
    return json.loads((out / "sequence.json").read_text())


@pytest.fixture(scope="module")
def shared(tiny, files, tmp_path_factory):
    """One head that the first task creates, and three tasks, the second with the labels of the others swapped."""
    out = tmp_path_factory.mktemp("shared") / "seq"
    tasks = [files[name] for name in ("older", "opposite", "original")]
    return sequence(tiny, out, tasks, "--head", "shared", "--keep", "latest"), out


def test_with_one_head_every_model_is_scored_on_every_task(shared):
    answer, out = shared
    found = told(out)
    matrix = np.array(found["matrix"], float)
    assert answer.json == found and matrix.shape == (4, 3) and np.isfinite(matrix).all(), answer.err
    runs = [record(out / f"stage-{number}") for number in (1, 2, 3)]
    assert [matrix[i + 1, i] for i in range(3)] == [run["new"]["after"] for run in runs]
    assert runs[0]["new"]["before"] is None, "the head was fresh"
    assert [matrix[i, i] for i in (1, 2)] == [run["new"]["before"] for run in runs[1:]], "what a stage started from"
    assert (matrix[3, 0], matrix[3, 1]) == (runs[2]["original"]["after"], runs[2]["original_2"]["after"])
    forward = ((matrix[1, 1] - matrix[0, 1]) + (matrix[2, 2] - matrix[0, 2])) / 2
    assert found["forward_transfer"]["value"] == pytest.approx(forward)
    backward = ((matrix[3, 0] - matrix[1, 0]) + (matrix[3, 1] - matrix[2, 1])) / 2
    assert found["backward_transfer"]["value"] == pytest.approx(backward)
    assert found["backward_transfer"]["low"] <= backward <= found["backward_transfer"]["high"]


def test_the_first_stage_has_nothing_to_keep_and_the_others_go_on_from_it(shared, files):
    answer, out = shared
    runs = [record(out / f"stage-{number}") for number in (1, 2, 3)]
    assert [run["name"] for run in runs] == ["full", "ewc", "ewc"]
    assert "there is no task to preserve yet: full learns the first task" in answer.err
    assert f"tasks to preserve: original is {files['older']}, original_2 is {files['opposite']}" in answer.err
    assert runs[1]["experiment"]["model"] == str(out / "stage-1" / "model")
    assert [list(run["heads"]) for run in runs] == [["original", "shared"]] * 3
    assert [run["experiment"]["head"] for run in runs] == ["new", "shared", "shared"]
    assert runs[2]["data"]["original_2"]["source"] == runs[1]["data"]["new"]["source"]


def test_the_worst_stage_is_the_outcome_and_the_page_has_it_all(shared):
    answer, out = shared
    found = told(out)
    failed = {task: verdict["outcome"] for task, verdict in record(out / "stage-2")["verdicts"].items()}
    assert failed["original"] == "fail" and list(found["stages"][1]["lost"]) == ["task_1"]
    assert answer.code == 1 and found["outcome"] == "fail" and found["stages"][1]["verdict"]["outcome"] == "fail"
    page = (out / "sequence.html").read_text()
    assert "backward transfer" in page and "after task_2" in page and "<script" not in page
    assert (out / "matrix.svg").read_text().count("after task_3") and (out / "matrix.png").stat().st_size > 1000
    assert "forward transfer" in answer.err and "after task_3" in answer.err


def test_a_finished_sequence_is_only_read_and_another_is_refused(shared, tiny, files):
    answer, out = shared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    tasks = [files[name] for name in ("older", "opposite", "original")]
    again = sequence(tiny, out, tasks, "--head", "shared", "--keep", "latest")
    assert (again.code, again.json) == (answer.code, answer.json)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before
    plan = json.loads((out / "plan.json").read_text())
    older = {name: value for name, value in plan.items() if name not in ("gamma", "seed")}
    del older["optim"]["schedule"], older["tasks"][0]["kind"], older["method"][0]["unit"]
    (out / "plan.json").write_text(json.dumps(older))
    again = sequence(tiny, out, tasks, "--head", "shared", "--keep", "latest")
    assert again.json == answer.json, "what a plan lacks had its default"
    (out / "plan.json").write_text(json.dumps(plan))
    other = sequence(tiny, out, tasks[::-1], "--head", "shared", "--keep", "latest")
    assert other.code == 2 and "holds another sequence" in other.err and "tasks" in other.err


def test_own_heads_faded_information_and_a_second_call_after_a_kill(tiny, files, tmp_path, monkeypatch):
    import fft.run.run

    out, run = tmp_path / "seq", fft.run.run.run
    flags = ("--original", files["original"], "--gamma", 0.5, "--max-drop", 0.3)
    flags += ("--tasks.name", "animal", "None")
    tasks = [files["new"], files["house"]]

    def killed(experiment, folder, *rest):
        if folder.name == "stage-2":
            raise KeyboardInterrupt
        return run(experiment, folder, *rest)

    monkeypatch.setattr("fft.run.run.run", killed)
    assert sequence(tiny, out, tasks, *flags).code == 130 and not (out / "sequence.json").exists()
    monkeypatch.undo()
    first = (out / "stage-1" / "run.json").stat().st_mtime_ns
    answer = sequence(tiny, out, tasks, *flags)
    assert answer.code in (0, 1, 4) and (out / "stage-1" / "run.json").stat().st_mtime_ns == first, answer.err
    found = told(out)
    assert [task["head"] for task in found["tasks"]] == ["animal", "task_2"]
    matrix = np.array(found["matrix"], float)
    assert np.isnan(matrix[0]).all() and np.isfinite(matrix[2]).all() and np.isnan(matrix[1, 1])
    assert found["forward_transfer"] is None and any("no forward transfer" in note for note in found["notes"])
    last = record(out / "stage-2")
    assert [last["data"][name]["head"] for name in ("original", "original_2")] == ["original", "animal"]
    assert last["experiment"]["method"][0]["fisher"] == str(out / "fisher" / "2")
    (before, first), (after, second) = (load_artefact(out / "fisher" / number) for number in "12")
    assert (first["tasks"], second["tasks"], second["previous"]["gamma"]) == (["original"], ["original", "animal"], 0.5)
    kernels = [tree["heads"]["original"]["out"]["kernel"] for tree in (before, after)]
    np.testing.assert_allclose(kernels[1], 0.5 * kernels[0], rtol=1e-6)  # the new task has no information on this head


def test_what_is_left_of_a_method_where_nothing_is_to_be_kept():
    assert without_original(EWC() + LoRA() + Replay(), True) == LoRA() and without_original(EWC(), False) == Full()
    assert without_original(LwF() + SI(), False) == SI() and without_original(LwF() + SI(), True) == LwF() + SI()
    assert without_original(KL(), True) == Full() and without_original(KL(on="unlabelled"), True) == KL(on="unlabelled")
    assert without_original(KL(on="unlabelled"), False) == Full()


def test_a_method_goes_on_from_the_run_before():
    method = (EWC(strength=3.0, samples=64, storage="int8") + SI(strength=2.0)).continued("runs/a", "fisher/1")
    assert method.members == (EWC(strength=3.0, fisher="fisher/1"), SI(strength=2.0, after="runs/a"))
    assert SI(strength=2.0).continued(None, None) == SI() and EWC(samples=8).continued("runs/a", None) == EWC(samples=8)


TWO = (Data("a"), Data("b"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": (Data("a"),)}, "a sequence needs two tasks or more, got 1"),
        ({"tasks": (Data("a"), Data("b", kind="regression"))}, "b is regression: a sequence averages"),
        ({"tasks": (Data("a"), Data("a"))}, "a is named twice"),
        ({"original": Data("b")}, "b is named twice"),
        ({"method": PromptTuning()}, "prompt ends as an adapter on its base"),
        ({"method": EWC(fisher="x")}, "--ewc.fisher is of one model, and each stage has its own"),
        ({"gamma": 0.5}, "--gamma has no effect: full does not use Fisher information"),
        ({"method": KL(on="unlabelled")}, "needs unlabelled texts: give --unlabelled"),
        ({"gamma": 1.5, "method": EWC()}, "--gamma must be between 0 and 1"),
        ({"gamma": 0.5, "method": EWC(), "original_head": "fit"}, "leave one out"),
        ({"retention": Retention(max_drop=("0.1", "0.2"))}, "`fft sequence` takes a single --max-drop"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SequenceSettings(**{"model": "m", "tasks": TWO} | settings)


def test_input_is_refused_before_the_first_stage_and_leaves_no_trace(tiny, files, tmp_path):
    out = tmp_path / "seq"
    for tasks, flags, message in (
        ((files["new"], tiny / "none.csv"), (), "none.csv: there is no such file"),
        ((files["older"], files["new"]), ("--head", "shared"), "unknown label"),
        ((files["new"], files["house"]), ("--tasks.name", "original", "b"), "has a head named 'original' already"),
        ((files["new"], files["house"]), ("--max-drop", "0.0001"), "it takes at least 10000 of them"),
        ((files["new"], files["house"]), ("--tasks.text", "a", "b", "c"), "--tasks.text has 3 values for 2 sources"),
    ):
        answer = sequence(tiny, out, tasks, *flags)
        assert answer.code == 2 and message in answer.err and not out.exists(), answer.err
