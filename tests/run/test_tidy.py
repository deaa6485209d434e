"""What is left of the saved steps of a finished run, and that it is enough for every later command."""

import json
import os
import shutil

import numpy as np
import pytest

from fft import restore
from fft.core.tree import flatten
from fft.disk import checkpoint
from tests.helpers.tiny_runs import fft, record, tune

FLAGS = ("--steps", 12, "--batch-size", 16, "--lr", 1e-2, "--eval-every", 3, "--head", "shared", "--drop-weight", 5)


def weights(folder, which):
    return {path: np.asarray(leaf) for path, leaf in flatten(restore(folder, which).params).items()}


def call(tiny, out, *flags):
    """The command that made the run; its labels oppose the original's, so that it loses more at every step."""
    return tune(tiny, out, *FLAGS, *flags, new="opposite.csv")


@pytest.fixture(scope="module")
def kept(tiny, tmp_path_factory):
    """A run with all saved states, whose best step is not its last, and the parameters of its steps."""
    out = tmp_path_factory.mktemp("kept") / "run"
    assert call(tiny, out, "--checkpoints", "keep").code in (0, 1, 4)
    found = record(out)
    assert found["best_step"] < found["steps"] == 12 and found["experiment"]["retention"]["checkpoints"] == "keep"
    return out, {which: weights(out, which) for which in ("best", "latest")}


@pytest.fixture
def untidied(kept, tmp_path):
    """The same run as one from before the `checkpoints` setting existed, not yet tidied."""
    folder = shutil.copytree(kept[0], tmp_path / "run")
    for name, place in (("experiment.json", ()), ("run.json", ("experiment",))):
        found = json.loads((folder / name).read_text())
        experiment = found[place[0]] if place else found
        del experiment["retention"]["checkpoints"]
        (folder / name).write_text(json.dumps(found))
    return folder


def is_tidy(folder):
    found = record(folder)
    steps = folder / "checkpoints"
    inside = {name: set(os.listdir(steps / name)) for name in os.listdir(steps)}
    wanted = {f"{found[step]:08d}" for step in ("best_step", "kept_step", "steps")}
    return inside == dict.fromkeys(wanted, frozenset({"arrays", "extra.json", "manifest.json"}))


def same_steps(folder, expected):
    found = {which: weights(folder, which) for which in expected}
    return all(np.array_equal(found[which][path], leaf) for which in expected for path, leaf in expected[which].items())


def test_the_next_call_on_a_finished_run_tidies_up_once(kept, untidied, tiny, tmp_path):
    whole, expected = kept
    assert not is_tidy(untidied) and not is_tidy(whole)
    answer = call(tiny, untidied)
    assert answer.json == record(untidied) and is_tidy(untidied) and same_steps(untidied, expected)
    for folder in (whole, untidied):
        for step in expected:
            out = tmp_path / folder.parent.name / step
            assert fft("export", folder, "--step", step, "--out", out).code == 0
    one, other = (
        [(tmp_path / folder.parent.name / step / "model.safetensors").read_bytes() for step in expected]
        for folder in (whole, untidied)
    )
    assert one == other and one[0] != one[1]
    times = {path: path.stat().st_mtime_ns for path in (untidied / "checkpoints").rglob("*")}
    call(tiny, untidied)
    assert {path: path.stat().st_mtime_ns for path in (untidied / "checkpoints").rglob("*")} == times


@pytest.mark.parametrize(("operation", "times"), [("_remove", 0), ("_reduce", 0), ("_reduce", 1), ("without_rest", 1)])
def test_killed_while_it_tidies_up_nothing_is_lost(kept, untidied, tiny, monkeypatch, operation, times):
    real, done = getattr(checkpoint, operation), []

    def killed(*arguments):
        if len(done) == times:
            raise KeyboardInterrupt
        done.append(real(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, operation, killed)
        assert call(tiny, untidied).code == 130
    assert not is_tidy(untidied) and same_steps(untidied, kept[1])
    call(tiny, untidied)
    assert is_tidy(untidied) and same_steps(untidied, kept[1])


def test_killed_between_a_manifest_and_its_files_the_rest_goes_later(kept, untidied, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
        call(tiny, untidied)
    assert not is_tidy(untidied) and same_steps(untidied, kept[1])
    call(tiny, untidied)
    assert is_tidy(untidied)


def test_no_run_goes_on_from_what_is_left(untidied, tiny):
    call(tiny, untidied)
    (untidied / "run.json").unlink()
    answer = call(tiny, untidied)
    assert answer.code == 2 and "is from a finished run and lacks the state to continue training" in answer.err


def test_whole_steps_are_not_taken_by_a_call_that_does_not_ask_to_keep_them(kept, tiny):
    answer = call(tiny, kept[0])
    assert answer.code == 2 and 'retention.checkpoints: "keep" -> (absent)' in answer.err
    assert not is_tidy(kept[0])
