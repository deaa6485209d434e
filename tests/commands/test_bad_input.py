"""What a user can get wrong: one clear message, the right exit code, nothing half-written, nothing in the way."""

import json
import os
import pickle
import resource
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fft.disk.checkpoint import Checkpoints
from tests.helpers.tiny_runs import at_event, fft, finish, outcome, record, refused, start, tune

QUICK = ("--steps", 8, "--eval-every", 20, "--batch-size", 16, "--lr", 1e-2, "--tolerance", 1)
ROWS = [f"the {word} {animal} film,{animal}" for animal in ("cat", "dog") for word in (*"abcdefghijkl",)]


def tuned(tiny, tmp_path, *flags, model=None, new=None, original="original.csv"):
    """`fft tune` without --json, so that standard error holds nothing but the trouble; the run folder is not there."""
    kept = ("--original", tiny / original) if original else ()
    model, new = model or tiny / "bert", new or tiny / "new.csv"
    answer = fft("tune", "--model", model, "--new", new, *kept, "--out", tmp_path / "run", *QUICK, *flags)
    assert not (tmp_path / "run").exists()
    return answer


def csv(tmp_path, lines, header="text,label"):
    """A file of ready-made lines, or of bytes."""
    path = tmp_path / "new.csv"
    path.write_bytes(lines if isinstance(lines, bytes) else "\n".join([header, *lines, ""]).encode())
    return path


# --- data ---

STRAY = [*ROWS, 'the "cat film,cat', 'the cat" film,cat']
DATA = {
    "missing column": (["the cat,cat"], "text,animal", "label"),
    "ragged": ([*ROWS, "the cat, the film,cat"], "text,label", "row 25 (line 26): expected 2 fields"),
    "stray quote": (STRAY, "text,label", "stray quote"),
    "invalid UTF-8": ("text,label\nle caf\xe9,cat\n".encode("latin-1"), "", "not valid UTF-8"),
    "empty": (b"", "", "the file is empty"),
    "header alone": ([], "text,label", "no rows"),
    "one class": ([row.replace("dog", "cat") for row in ROWS], "text,label", "label"),
    "empty label": ([*ROWS, "the cat film,"], "text,label", "row 25"),
    "empty text": ([*ROWS, ",cat"], "text,label", "row 25"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_read_for_sure(tiny, tmp_path, case):
    lines, header, message = DATA[case]
    refused(tuned(tiny, tmp_path, new=csv(tmp_path, lines, header)), message)
    as_original = fft(
        *("tune", "--model", tiny / "bert", "--new", tiny / "new.csv", "--original", tmp_path / "new.csv"),
        *("--out", tmp_path / "run", *QUICK),
    )
    assert as_original.code == 2 and as_original.err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_column_that_is_not_there_names_those_that_are(tiny, tmp_path):
    answer = tuned(tiny, tmp_path, "--new-text", "review")
    refused(answer, "review")
    assert "'text', 'label'" in answer.err


def test_a_file_that_is_not_there(tiny, tmp_path):
    refused(tuned(tiny, tmp_path, new=tmp_path / "none.csv"), "none.csv: there is no such file")
    refused(tuned(tiny, tmp_path, new=tmp_path), "is a folder without data: give a file, .csv")


def test_a_corrected_call_goes_on_in_the_same_folder(tiny, tmp_path):
    refused(tuned(tiny, tmp_path, "--new-label", "animal"), "animal")
    assert tune(tiny, tmp_path / "run", *QUICK).code == 0 and record(tmp_path / "run")["stopped"] == "steps"


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("-1", "0", "1"), "-1"), (("0", "1", "2"), "2"), (("positive", "negative", "neutral"), "neutral")],
)
def test_labels_the_head_does_not_have(tiny, tmp_path, labels, message):
    rows = [f"the {word} film,{labels[at % 3]}" for at, word in enumerate("abcdefghijklmnopqrstuvwxyz")]
    path = csv(tmp_path, rows)
    scored = fft("eval", "--model", tiny / "bert", "--task", path, "--predictions", tmp_path / "out.jsonl")
    refused(scored, message)
    assert not (tmp_path / "out.jsonl").exists()
    refused(tuned(tiny, tmp_path, "--head", "shared", new=path), message)


def test_a_label_that_only_the_evaluation_rows_have(tiny, tmp_path):
    answer = tuned(tiny, tmp_path, "--new-test", csv(tmp_path, [*ROWS, "the fish film,fish"]))
    refused(answer, "'fish'")


def test_targets_that_are_no_numbers(tiny, tmp_path):
    refused(tuned(tiny, tmp_path, "--new-kind", "regression"), "is not a number")


def test_looking_into_a_broken_file(tmp_path):
    refused(fft("data", csv(tmp_path, STRAY)), "stray quote")


# --- checkpoints ---


def broken(tiny, tmp_path, change):
    """A copy of the base, changed."""
    folder = tmp_path / "model"
    shutil.copytree(tiny / "bert", folder)
    change(folder)
    return folder


def weights(change):
    """A change of the tensors of a checkpoint."""

    def apply(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def config(**fields):
    """A change of config.json."""

    def apply(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return apply


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def truncated(folder):
    os.truncate(folder / "model.safetensors", 5000)


def fewer_words(tensors):
    name = "bert.embeddings.word_embeddings.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:40])


CHECKPOINTS = {
    "a pickle": (pickled, "pickle"),
    "a pickle by another name": (
        lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps({}, protocol=4)),
        "pickle",
    ),
    "a git-lfs pointer": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid 1\n"),
        "git-lfs pointer",
    ),
    "truncated": (truncated, "truncated"),
    "missing tensor": (weights(lambda t: t.pop("bert.pooler.dense.bias")), "pooler/bias"),
    "extra tensor": (weights(lambda t: t.update({"bert.extra.weight": np.zeros(3, np.float32)})), "bert.extra.weight"),
    "misshapen tensor": (
        weights(lambda t: t.update({"bert.pooler.dense.bias": np.zeros(3, np.float32)})),
        "bert.pooler.dense.bias is [3], expected [16]",
    ),
    "integers": (
        weights(lambda t: t.update({"bert.pooler.dense.bias": np.zeros(16, np.int32)})),
        "bert.pooler.dense.bias is int32",
    ),
    "unsupported family": (config(model_type="t5"), "supported are bert, distilbert, gemma"),
    "unknown setting": (config(magic=1), "magic"),
    "unknown activation": (config(hidden_act="swoosh"), "swoosh"),
    "tokenizer beyond the table": (
        lambda folder: [config(vocab_size=40)(folder), weights(fewer_words)(folder)],
        "the tokenizer is larger than the embedding table",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "nothing": (shutil.rmtree, "does not exist"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_is_not_what_it_says(tiny, tmp_path, case):
    change, message = CHECKPOINTS[case]
    folder = broken(tiny, tmp_path, change)
    refused(tuned(tiny, tmp_path, model=folder), message)
    refused(fft("eval", "--model", folder, "--task", tiny / "original.csv"), message)


# --- settings that meet the model or the data ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "freeze", "--freeze.pattern", "layers/7/.*"), "'layers/7/.*' matches none"),
        (("--method", "freeze", "--freeze.pattern", "layers/(1"), "not a regular expression"),
        (("--method", "freeze", "--freeze.blocks", "3"), "the model has 2 blocks"),
        (("--method", "freeze", "--freeze.pattern", ".*"), "leaves nothing to train"),
        (("--method", "lora", "--lora.targets", "querry"), "unknown role querry"),
        (("--method", "lora+ewc", "--lora.targets", "layers/9/.*"), "matches none"),
        (("--head", "shared"), "cat"),
        (("--original-head", "third"), "--original-head third"),
        (("--new-name", "a/b"), "cannot be called 'a/b'"),
        (("--max-length", "161"), "give at most 160, the positions of"),
        (("--new-metric", "pearson"), "pearson"),
    ],
)
def test_settings_that_do_not_fit(tiny, tmp_path, flags, message):
    refused(tuned(tiny, tmp_path, *flags), message)


def test_a_base_without_a_head_for_the_original_task(tiny, tmp_path):
    refused(tuned(tiny, tmp_path, model=tiny / "bare"), "--original-head fit")
    scored = fft("eval", "--model", tiny / "bare", "--task", tiny / "original.csv")
    refused(scored, "its heads are: none: tune one with fft tune")


# --- the machine: exit code 3 ---


def test_a_folder_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    model = ("--model", tiny / "bert")
    task = tiny / "original.csv"
    refused(fft("eval", *model, "--task", task, "--predictions", tmp_path / "file" / "p"), "Not a directory", 3)
    assert (tmp_path / "file").read_text() == "" and len(list(tmp_path.iterdir())) == 1


def limited(tiny, out, size):
    """`fft tune` while this process may write no file of more than `size` bytes."""
    arguments = ("--model", tiny / "bert", "--new", tiny / "new.csv", "--original", tiny / "original.csv")
    before, setting = resource.getrlimit(resource.RLIMIT_FSIZE), "jax_persistent_cache_min_compile_time_secs"
    kept = getattr(jax.config, setting)
    # The compiled programs lie on another disk, so to say: they are read and never written.
    jax.config.update(setting, 1e6)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        return fft("tune", *arguments, "--method", "full", "--out", out, *QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update(setting, kept)


def test_a_full_disk_ends_with_exit_code_3_and_the_run_can_go_on(tiny, tmp_path):
    assert tune(tiny, tmp_path / "whole", *QUICK).code == 0
    run = tmp_path / "full"
    refused(limited(tiny, run, 20_000), "File too large", 3)
    assert Checkpoints(run / "checkpoints").steps() == [] and not (run / "model").exists()
    refused(limited(tiny, run, 150_000), "history.png: File too large", 3)
    assert Checkpoints(run / "checkpoints").steps()[-1] == 8 and not (run / "run.json").exists()
    assert tune(tiny, run, *QUICK).code == 0 and outcome(run) == outcome(tmp_path / "whole")


def test_no_memory_ends_with_exit_code_3(tiny, tmp_path):
    def full():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1792058943192 bytes.")

    with at_event("save", 0, full):
        answer = tune(tiny, tmp_path / "run", *QUICK)
    assert answer.code == 3 and "Out of memory allocating 1792058943192 bytes. Lower --batch-size" in answer.err


def test_no_network(tiny, tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path / "hub")}
    arguments = ("--model", "hf:some/model", "--new", tiny / "new.csv", "--out", tmp_path / "run")
    refused(finish(start("tune", *arguments, env=os.environ | nowhere)), "check the network", 3)
    assert not (tmp_path / "run").exists()


# --- folders that are somebody else's, and weights that no score is about ---


def test_a_folder_that_holds_something_is_not_taken_over(tiny, tmp_path):
    base, other = tmp_path / "base", tmp_path / "other"
    shutil.copytree(tiny / "bert", base)
    (other / "model").mkdir(parents=True)
    (other / "model" / "notes.txt").write_text("precious")
    for out, known, message in (
        (base, "holds a checkpoint", "holds something already"),
        (other, "holds something already (model)", "holds something already (model)"),
    ):
        there = sorted(path.name for path in out.rglob("*"))
        tasks = (tiny / "new.csv", tiny / "original.csv")
        train = ("--model", tiny / "bert", "--out", out, "--method", "lora")
        refused(fft("tune", *train, "--new", tiny / "new.csv"), known)
        refused(fft("sequence", *train, "--tasks", *tasks), known)
        check = ("check", tiny / "bert", tiny / "bert", "--original", tiny / "original.csv")
        refused(fft(*check, "--out", out), message)
        assert sorted(path.name for path in out.rglob("*")) == there


def test_a_folder_below_a_file_is_refused_before_any_work(tiny, tmp_path):
    (tmp_path / "file").write_text("precious")
    out, bert = tmp_path / "file" / "x" / "y", tiny / "bert"
    tasks = ("--new", tiny / "new.csv", "--original", tiny / "original.csv")
    for arguments in (
        ("tune", "--model", bert, *tasks, "--method", "full"),
        ("check", bert, bert, *tasks[2:]),
        ("repair", bert, bert, *tasks),
        ("diagnose", bert, bert, *tasks[2:]),
        ("merge", bert, bert, "--how", "ties"),
    ):
        refused(fft(*arguments, "--out", out), f"{tmp_path / 'file'} is a file; choose a folder")


def test_settings_that_no_machine_could_follow_are_refused(tiny, tmp_path):
    for flags, message in (
        (("--method", "lora", "--lora.rank", 10**8), "have a rank of at most 16"),
        (("--method", "dora", "--dora.rank", 17), "have a rank of at most 16"),
        (("--method", "full", "--batch-size", 10**14), "batch-size must be between 1 and 65,536"),
        (("--method", "full+lora"), "full and lora each set what is trained"),
    ):
        out = tmp_path / "x"
        refused(fft("tune", "--model", tiny / "bert", "--new", tiny / "new.csv", *flags, "--out", out), message)
        assert not out.exists()


def test_what_is_refused_after_the_folder_was_claimed_gives_it_back(tiny, tmp_path):
    """The labels turned round: the base scores 0, of which no share can be lost; scoring it tells."""
    flags = ("--model", tiny / "bert", "--new", tiny / "new.csv", "--original", tiny / "opposite.csv", *QUICK[:6])
    out = ("--out", tmp_path / "run")
    refused(fft("tune", *flags, *out, "--max-drop", "7%"), "is a share of the base's score, which is 0")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    refused(fft("tune", *flags, *out, "--max-drop", "0.5"), "cannot drop by more than 0: leave --max-drop out")
    assert fft("tune", *flags, *out, "--tolerance", 1).code == 0
    tasks = ("--tasks", tiny / "new.csv", tiny / "original.csv", "--original", tiny / "opposite.csv")
    out = ("--out", tmp_path / "seq")
    refused(fft("sequence", "--model", tiny / "bert", *tasks, *out, "--max-drop", "7%"), "which is 0")
    assert [path.name for path in (tmp_path / "seq").iterdir()] == ["lock"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tiny, tmp_path, value):
    folder = tmp_path / "broken"
    shutil.copytree(tiny / "bert", folder)
    weights = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    weights[name][3, 2] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    message = f"{name} holds values that are not finite"
    refused(tuned(tiny, tmp_path, model=folder), message)
    given = ("--original", tiny / "original.csv")
    for answer in (
        fft("eval", "--model", folder, "--task", tiny / "original.csv"),
        fft("check", tiny / "bert", folder, *given),
        fft("repair", tiny / "bert", folder, *given, "--new", tiny / "new.csv", "--out", tmp_path / "out"),
        fft("merge", tiny / "bert", folder, tiny / "bert", "--how", "soup", "--out", tmp_path / "out"),
    ):
        refused(answer, message)


def test_a_merge_that_overflows_is_refused(tiny, tmp_path):
    shutil.copytree(tiny / "bert", tmp_path / "tuned")
    weights = load_file(tmp_path / "tuned" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "tuned" / "model.safetensors")
    how = ("--how", "arithmetic", "--scale", "3e38", "3e38", "--out", tmp_path / "out")
    refused(fft("merge", tiny / "bert", tmp_path / "tuned", tmp_path / "tuned", *how), "not finite")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-drop", "1e-320"), "expected a number above 0"),
        (("--max-drop", "1e-322%"), "--max-drop '1e-322%'"),
        (("--max-drop",), "--max-drop has no value"),
        (("--max-drop", "--seed", "1"), "--max-drop has no value"),
        (("--max-drop", "0.1", "--tolerance", "0.2"), "leave out --tolerance"),
        (("--head", "shared", "--new.name", "foo"), "--new.name foo names a new head"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tiny, tmp_path, flags, message):
    base = ("--model", tiny / "bert", "--new", tiny / "original.csv", "--original", tiny / "opposite.csv")
    refused(fft("tune", *base, "--out", tmp_path / "run", *flags), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--original-head", "original", "--method", "full"), "--original-head original is unused: give --original"),
        (("--original-head", "fit", "--method", "lwf"), "give --original"),
        (
            ("--original-head", "third", "--method", "lwf"),
            "--original-head third: the checkpoint's heads are: original",
        ),
        (
            ("--original-head", "third", "--head", "shared"),
            "--original-head third: the checkpoint's heads are: original",
        ),
    ],
)
def test_heads_without_original_data(tiny, tmp_path, flags, message):
    refused(tuned(tiny, tmp_path, *flags, original=None), message)


def test_a_run_in_place_of_a_checkpoint_is_told_where_its_model_is(tiny, tmp_path):
    assert tune(tiny, tmp_path / "first", *QUICK).code in (0, 4)
    refused(
        tuned(tiny, tmp_path, model=tmp_path / "first"), f"is a run of fft; the checkpoint that it left is {tmp_path}"
    )


def test_what_a_killed_process_was_writing_is_swept(tiny, tmp_path):
    flags = (*QUICK, "--checkpoints", "keep")  # steps to go on from, as there are before the last word
    assert tune(tiny, tmp_path / "run", *flags).code in (0, 4)
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / ".model.partial-77").mkdir()
    (tmp_path / "run" / ".run.json.77.tmp").write_text("{")
    assert tune(tiny, tmp_path / "run", *flags).code in (0, 4)
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
