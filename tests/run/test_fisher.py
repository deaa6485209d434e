"""`fft fisher`: the artefact, resuming a stopped pass, what is refused, and a run that reads it."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fft.run import fisher as module
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import fft, outcome, record, tune

SETTINGS = ("--samples", 96, "--batch-size", 16)


def measure(tiny, out, *flags, model="bert", original="original.csv"):
    return fft("fisher", "--model", tiny / model, "--original", tiny / original, "--out", out, *flags, "--json")


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """An artefact of the tiny base, not to be changed, and the answer of the command."""
    out = tmp_path_factory.mktemp("fisher") / "f"
    return out, measure(tiny, out, *SETTINGS)


def test_the_artefact_tells_how_it_was_made(made, tiny):
    out, answer = made
    assert answer.code == 0, answer.err
    told = json.loads((out / "provenance.json").read_text())
    wanted = {"kind": "fisher", "estimator": "mc", "way": "fused", "draws": 1, "examples": 96, "seed": 0}
    assert {name: told[name] for name in wanted} == wanted
    assert told["task"] == {"name": "original", "kind": "classification", "labels": ["negative", "positive"]}
    assert told["data"]["source"] == str(tiny / "original.csv") and len(told["data"]["train"]["sha256"]) == 64
    assert told["versions"]["jax"] and told["model"] == str(tiny / "bert") and len(told["base_sha256"]) == 64
    tensors = load_file(out / "tensors.safetensors")
    assert told["trace"] == pytest.approx(sum(float(leaf.sum()) for leaf in tensors.values()), rel=1e-5)
    assert {path.name for path in out.iterdir()} == {"lock", "request.json", "provenance.json", "tensors.safetensors"}
    assert answer.json["trace"] == told["trace"] and "96 of 96 rows" in answer.err


def test_a_run_that_reads_it_is_the_run_that_measures_for_itself(made, tiny, tmp_path):
    flags = ("--method", "lora+ewc", "--steps", 6, "--batch-size", 16, "--tolerance", 1, "--ewc.unit", "ratio")
    alone = tune(tiny, tmp_path / "read", *flags, "--fisher", made[0])
    assert alone.code == 0, alone.err
    notes = record(tmp_path / "read")["notes"]
    assert any(note.startswith("Fisher (mc) over 96 original rows") and str(made[0]) in note for note in notes)
    assert any("N_original / N_new" in note for note in notes)
    flags = ("--method", "ewc", *flags[2:-2])
    own = tune(tiny, tmp_path / "own", *flags, "--ewc.samples", 96, "--ewc.batch-size", 16)
    read = tune(tiny, tmp_path / "again", *flags, "--fisher", made[0])
    assert own.code == read.code == 0 and outcome(tmp_path / "own") == outcome(tmp_path / "again")


def test_ewc_with_an_artefact_needs_no_original_data(made, tiny, tmp_path):
    flags = ("--method", "ewc", "--steps", 4, "--batch-size", 16)
    assert tune(tiny, tmp_path / "run", *flags, "--fisher", made[0], original=None).code == 0
    answer = tune(tiny, tmp_path / "bare", *flags, original=None)
    assert answer.code == 2 and "original" in answer.err


def test_a_run_refuses_the_fisher_of_another_base_before_it_writes_anything(made, tiny, tmp_path):
    tiny_checkpoint.write_checkpoint(tmp_path / "other", seed=1)
    answer = tune(tiny, tmp_path / "run", "--method", "ewc", "--fisher", made[0], model=tmp_path / "other")
    assert answer.code == 2 and "was measured at other weights" in answer.err
    for flags, message in (
        (("--method", "full"), "--fisher is unused by --method full: leave it out, or add ewc or sparse"),
        (("--method", "ewc", "--original-head", "fit"), "--original-head fit trains a head"),
        (("--method", "ewc", "--ewc.samples", 64), "ewc.samples is a setting of the run's own Fisher pass"),
        (("--method", "ewc", "--ewc.fisher", tmp_path), "differ: give one"),
    ):
        answer = tune(tiny, tmp_path / "run", *flags, "--fisher", made[0])
        assert answer.code == 2 and message in answer.err, answer.err
    answer = tune(tiny, tmp_path / "run", "--method", "ewc", "--fisher", tmp_path / "nowhere")
    assert answer.code == 2 and "there is none" in answer.err and not (tmp_path / "run").exists()


def test_a_run_refuses_the_fisher_of_another_task_and_warns_of_other_rows(made, tiny, tmp_path):
    flags = ("--method", "full", "--steps", 2, "--batch-size", 16, "--keep", "latest", "--tolerance", 1)
    assert tune(tiny, tmp_path / "run", *flags).code == 0
    both = tmp_path / "run"  # heads original and new
    answer = measure(tiny, tmp_path / "new", *SETTINGS, "--head", "new", model=both, original="new.csv")
    assert answer.code == 0, answer.err
    flags = ("--method", "ewc", "--steps", 2, "--original-head", "original", "--fisher", tmp_path / "new")
    answer = tune(tiny, tmp_path / "again", *flags, model=both / "model")
    assert answer.code == 2 and "is of the task new, the original task of this run is original" in answer.err
    tiny_checkpoint.write_original(tmp_path / "other.csv", seed=9)
    flags = ("--method", "ewc", "--steps", 2, "--batch-size", 16, "--tolerance", 1, "--fisher", made[0])
    assert tune(tiny, tmp_path / "rows", *flags, original=tmp_path / "other.csv").code == 0
    assert any("read other rows than" in note for note in record(tmp_path / "rows")["notes"])


def test_a_run_that_has_read_its_fisher_goes_on_without_the_folder(made, tiny, tmp_path):
    shutil.copytree(made[0], tmp_path / "fisher")
    flags = ("--method", "ewc", "--steps", 2, "--batch-size", 16, "--tolerance", 1, "--fisher", tmp_path / "fisher")
    flags += ("--checkpoints", "keep")  # as they are before the run is finished
    assert tune(tiny, tmp_path / "run", *flags).code == 0
    notes = record(tmp_path / "run")["notes"]
    shutil.rmtree(tmp_path / "fisher")
    (tmp_path / "run" / "run.json").unlink()  # as after a kill just before the end
    again = tune(tiny, tmp_path / "run", *flags)
    assert again.code == 0, again.err
    assert record(tmp_path / "run")["notes"] == notes


def test_a_refused_pass_leaves_its_folder_to_the_corrected_call(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("fft.fisher.diagonal.MOST_EXACT", 1)
    answer = measure(tiny, tmp_path / "f", *SETTINGS, "--estimator", "exact")
    assert answer.code == 2 and "exact would take 2 backward passes" in answer.err
    assert measure(tiny, tmp_path / "f", *SETTINGS).code == 0


def test_folders_of_others_are_left_alone(made, tiny, tmp_path):
    answer = measure(tiny, tiny / "bert")
    assert answer.code == 2 and "holds a checkpoint" in answer.err
    answer = tune(tiny, made[0], "--steps", 2)
    assert answer.code == 2 and "holds Fisher information" in answer.err
    (tmp_path / "file").write_text("")
    answer = measure(tiny, tmp_path / "file")
    assert answer.code == 2 and "is a file" in answer.err


def test_a_pass_that_is_not_finished_is_said_to_be_so(tiny, tmp_path):
    (tmp_path / "request.json").write_text("{}")
    answer = fft("fisher", "--out", tmp_path, "--show")
    assert answer.code == 2 and "a pass that is not finished: repeat its command" in answer.err


def test_a_second_call_finds_it_finished_and_another_request_is_refused(made, tiny):
    before = (made[0] / "provenance.json").stat().st_mtime_ns
    assert measure(tiny, made[0], *SETTINGS).json == made[1].json
    assert (made[0] / "provenance.json").stat().st_mtime_ns == before
    answer = measure(tiny, made[0], *SETTINGS, "--estimator", "exact")
    assert answer.code == 2 and 'estimator: "mc" -> "exact"' in answer.err


@pytest.mark.parametrize("how", ["SIGTERM", "killed"])
def test_a_stopped_pass_goes_on_to_the_same_bits(made, tiny, tmp_path, monkeypatch, how):
    call, calls = module._Saver.__call__, []

    def stop(self, running):
        calls.append(running.examples)
        if len(calls) == 4 and how == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        elif len(calls) == 4:
            raise SystemExit(9)
        call(self, running)

    monkeypatch.setattr(module._Saver, "__call__", stop)
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    assert measure(tiny, tmp_path / "f", *SETTINGS).code == (143 if how == "SIGTERM" else 9)
    assert not (tmp_path / "f" / "provenance.json").exists()
    again = measure(tiny, tmp_path / "f", *SETTINGS)
    assert again.code == 0 and f"resuming after {64 if how == 'SIGTERM' else 48} rows" in again.err
    assert len(calls) == (6 if how == "SIGTERM" else 7)
    wanted, found = (load_file(out / "tensors.safetensors") for out in (made[0], tmp_path / "f"))
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert not (tmp_path / "f" / "partial").exists()


@pytest.mark.parametrize(("storage", "share"), [("bfloat16", 0.5), ("int8", 0.27)])
def test_small_storage(made, tiny, tmp_path, storage, share):
    assert measure(tiny, tmp_path / "f", *SETTINGS, "--storage", storage).code == 0
    sizes = [sum(leaf.nbytes for leaf in load_tensors(out)) for out in (tmp_path / "f", made[0])]
    assert sizes[0] <= share * sizes[1] + 4 * 60, "60 blocks at most are not full"
    if storage == "int8":
        flags = ("--method", "ewc", "--steps", 4, "--batch-size", 16, "--tolerance", 1)
        assert tune(tiny, tmp_path / "run", *flags, "--fisher", tmp_path / "f").code == 0


def load_tensors(out):
    from jax.tree import leaves

    from fft.disk.artefact import load_artefact

    return leaves(load_artefact(out)[0])


def test_the_fisher_of_an_earlier_task_is_faded_and_added(made, tiny, tmp_path):
    """On the same base and data: F + γ F is 1.5 F."""
    assert measure(tiny, tmp_path / "f", *SETTINGS, "--previous", made[0], "--gamma", 0.5).code == 0
    once, more = (load_file(out / "tensors.safetensors") for out in (made[0], tmp_path / "f"))
    for name, leaf in once.items():
        np.testing.assert_allclose(more[name], 1.5 * leaf, rtol=1e-6)
    told = json.loads((tmp_path / "f" / "provenance.json").read_text())
    assert told["previous"]["gamma"] == 0.5 and len(told["previous"]["sha256"]) == 64
    assert told["tasks"] == ["original", "original"] and told["trace_error"] is None
    assert told["trace"] == pytest.approx(sum(float(leaf.sum()) for leaf in more.values()), rel=1e-5)


def test_show_prints_and_draws_where_the_information_sits(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "f")
    answer = fft("fisher", "--out", tmp_path / "f", "--show")
    assert answer.code == 0 and "embeddings" in answer.out and "block 1" in answer.out
    assert (tmp_path / "f" / "places.png").stat().st_size > 1000
    assert "query" in (tmp_path / "f" / "places.svg").read_text()
    places = fft("fisher", "--out", tmp_path / "f", "--show", "--json").json["places"]
    assert sum(place["share"] for place in places) == pytest.approx(1, abs=1e-5)


KNOWN = ("--model", "{tiny}/bert", "--original", "{tiny}/original.csv")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (KNOWN[:2], "--original is missing"),
        (KNOWN[2:], "--model and --original are missing"),
        (("--model", "{tiny}/bare", *KNOWN[2:]), "has no head to measure"),
        ((*KNOWN, "--head", "b"), "has no head b"),
        ((*KNOWN, "--samples", "0"), "--samples must be at least"),
        ((*KNOWN, "--gamma", "2"), "--gamma must be between"),
        ((*KNOWN, "--previous", "{tiny}"), "expected Fisher information in"),
        ((*KNOWN, "--gamma", "0.5"), "give --previous"),
        ((*KNOWN, "--seed=-1"), "--seed must be at least 0"),
        ((*KNOWN[:3], "{tiny}/new.csv"), "unknown label"),
        (("--show",), "expected Fisher information in"),
    ],
)
def test_what_is_refused(tiny, tmp_path, flags, message):
    answer = fft("fisher", *(flag.format(tiny=tiny) for flag in flags), "--out", tmp_path / "f")
    assert answer.code == 2 and message in answer.err, answer.err
    assert "Traceback" not in answer.err and not (tmp_path / "f" / "request.json").exists()


def test_weights_that_overflow_are_named_by_row(tiny, tmp_path):
    shutil.copytree(tiny / "bert", tmp_path / "bert")
    tensors = load_file(tmp_path / "bert" / "model.safetensors")
    tensors["bert.embeddings.LayerNorm.weight"] *= np.float32(1e30)
    save_file(tensors, tmp_path / "bert" / "model.safetensors", metadata={"format": "pt"})
    answer = measure(tiny, tmp_path / "f", *SETTINGS, "--estimator", "empirical", model=tmp_path / "bert")
    assert answer.code == 2 and "the squared gradient of row" in answer.err, answer.err


def test_a_base_that_is_certain_of_everything_is_warned_of(tiny, tmp_path):
    shutil.copytree(tiny / "bert", tmp_path / "bert")
    tensors = load_file(tmp_path / "bert" / "model.safetensors")
    tensors["classifier.weight"] *= np.float32(1e30)
    save_file(tensors, tmp_path / "bert" / "model.safetensors", metadata={"format": "pt"})
    answer = measure(tiny, tmp_path / "f", *SETTINGS, model=tmp_path / "bert")
    assert answer.code == 0 and "warning: the Fisher information is 0 everywhere" in answer.err
