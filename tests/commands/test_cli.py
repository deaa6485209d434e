"""The commands on finished runs, and the Python way beside them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import fft as package
from fft import models
from fft.core.tree import flatten
from fft.disk.checkpoint import Checkpoints
from fft.experiment import load
from fft.run.heads import load_heads
from fft.training.trainable import trained_leaves
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import fft, outcome, record, start

SWEEP = """
import fft

def experiments():
    print("a word on standard output")
    shared = dict(model="{0}/bert", new=fft.Data("{0}/new.csv"), original=fft.Data("{0}/original.csv"))
    optim = fft.Optim(lr=1e-2, steps=12, batch_size=16)
    watch = fft.Retention(tolerance=1.0, eval_every=6)
    last = fft.Retention(tolerance=1.0, eval_every=6, keep="latest")
    return {{
        "full": fft.Experiment(**shared, optim=optim, retention=watch),
        "lora": fft.Experiment(**shared, method=fft.LoRA(rank=2), optim=optim, retention=last),
    }}
"""


@pytest.fixture(scope="module")
def swept(tiny, tmp_path_factory):
    """The answer of `fft sweep`, its file and the folder of its two runs, full and lora."""
    folder = tmp_path_factory.mktemp("sweep")
    file = folder / "ablation.py"
    file.write_text(SWEEP.format(tiny))
    return fft("sweep", file, "--out", folder / "runs", "--json"), file, folder / "runs"


# --- sweep and compare ---


def test_a_sweep_runs_what_its_file_names(swept):
    answer, _, runs = swept
    assert answer.code == 0 and list(answer.json["runs"]) == ["full", "lora"]
    assert answer.json["runs"]["lora"] == record(runs / "lora") | {"name": "lora"}
    assert "a word on standard output" in answer.err


def test_a_second_sweep_does_nothing(swept):
    answer, file, runs = swept
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file() and path.name != "lock"}
    again = fft("sweep", file, "--out", runs, "--json")
    assert (again.code, again.json) == (0, answer.json) and "on the probe" not in again.err
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_a_sweep_of_a_part_and_of_nothing(swept):
    _, file, runs = swept
    assert list(fft("sweep", file, "--out", runs, "--only", "lo", "--json").json["runs"]) == ["lora"]
    assert fft("sweep", file, "--out", runs, "--only", "sgd").code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a file"),
        ("x = 1", "defines no function experiments"),
        ("def experiments(): return [1]", "must return a dict"),
        ("def experiments():\n    return missing", "file.py, line 2: NameError: name 'missing' is not defined"),
        ("import sys\nsys.exit(1)", "file.py, line 2: SystemExit: 1"),
        ("x = ", "file.py: SyntaxError: invalid syntax"),
    ],
)
def test_files_that_are_no_sweeps(tmp_path, content, message):
    if content is not None:
        (tmp_path / "file.py").write_text(content)
    answer = fft("sweep", tmp_path / "file.py", "--out", tmp_path / "runs")
    assert answer.code == 2 and message in answer.err and not (tmp_path / "runs").exists()


def test_runs_side_by_side(swept, tmp_path):
    _, _, runs = swept
    answer = fft("compare", runs / "full", runs / "lora", "--out", tmp_path / "front", "--json")
    assert answer.code == 0 and answer.json["warnings"] == []
    assert [run["name"] for run in answer.json["runs"]] == ["full", "lora"]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("front.md", "front-table.md", "front.svg", "front.png", "front-steps.svg", "front-steps.png")
    }
    assert "lora" in (tmp_path / "front.md").read_text() and "lora" in answer.err
    assert f"wrote {tmp_path}/front.md, {tmp_path}/front.svg, {tmp_path}/front.png\n" in answer.err


def test_runs_without_an_original_have_a_table_and_no_picture(swept, tmp_path):
    (tmp_path / "run").mkdir()
    unwatched = record(swept[2] / "full") | {"original": None, "verdict": None}
    (tmp_path / "run" / "run.json").write_text(json.dumps(unwatched))
    answer = fft("compare", tmp_path / "run", "--out", tmp_path / "out" / "front.v1")
    assert answer.code == 0 and f"wrote {tmp_path}/out/front.v1.md\n" in answer.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"front.v1.md", "front.v1-table.md"}
    assert "wrote" not in fft("compare", tmp_path / "run").out


def test_a_folder_that_is_no_run_cannot_be_compared(tmp_path):
    answer = fft("compare", tmp_path)
    assert answer.code == 2 and "has no run.json" in answer.err


# --- eval ---


def test_eval_scores_a_run_and_writes_each_prediction(swept, tiny, tmp_path):
    file = tmp_path / "predictions.jsonl"
    answer = fft("eval", "--model", swept[2] / "full", "--task", tiny / "mixed.csv", "--predictions", file, "--json")
    found = answer.json
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert answer.code == 0 and found["n"] == len(lines) == 240 and found["head"] == "new"
    assert found["score"] == pytest.approx(np.mean([line["label"] == line["prediction"] for line in lines]))
    assert found["low"] < found["score"] < found["high"]
    assert set(found) == {"head", "metric", "score", "low", "high", "n", "source", "notes"}
    assert f"wrote {file}\n" in answer.err
    rows = (tiny / "mixed.csv").read_text().splitlines()[1:]
    assert [line["row"] for line in lines] == list(range(1, 241))
    assert [line["label"] for line in lines] == [row.split(",")[1] for row in rows]
    labels = record(swept[2] / "full")["heads"]["new"]["labels"]
    assert all(labels[int(np.argmax(line["logits"]))] == line["prediction"] for line in lines)


def test_eval_of_another_head_of_the_same_run(swept, tiny):
    answer = fft("eval", "--model", swept[2] / "lora", "--task", tiny / "original.csv", "--head", "original", "--json")
    assert answer.code == 0 and answer.json["head"] == "original" and answer.json["score"] > 0.5
    wrong = fft("eval", "--model", swept[2] / "lora", "--task", tiny / "original.csv", "--head", "third", "--json")
    assert wrong.code == 2 and wrong.json["exit_code"] == 2 and "its heads are: original, new" in wrong.err


def test_logits_that_are_not_finite_predict_nothing(tiny, tmp_path):
    model = tiny_checkpoint.tensors()
    for name in ("weight", "bias"):
        model[f"bert.embeddings.LayerNorm.{name}"][:] = 3e38
    folder = tmp_path / "model"
    tiny_checkpoint.write_checkpoint(folder)
    save_file(model, folder / "model.safetensors")
    file = tmp_path / "out.jsonl"
    answer = fft("eval", "--model", folder, "--task", tiny / "original.csv", "--predictions", file, "--json")
    assert answer.code == 0 and answer.json["score"] == 0
    first = json.loads(file.read_text().splitlines()[0], parse_constant=pytest.fail)
    assert first["prediction"] is None and first["logits"] == [None, None]
    assert first["label"] in ("negative", "positive")


# --- export and restore ---


@pytest.mark.parametrize("head", ["new", "original"])
def test_an_export_has_the_same_logits_in_transformers(swept, tiny, tmp_path, head):
    import torch
    import transformers

    flags = ("--head", head) if head == "original" else ()
    answer = fft("export", swept[2] / "lora", "--to", "hf", "--out", tmp_path / "hf", *flags, "--json")
    assert answer.code == 0 and answer.json["head"] == head
    file = tmp_path / "ours.jsonl"
    task = tiny / {"new": "mixed.csv", "original": "original.csv"}[head]
    fft("eval", "--model", swept[2] / "lora", "--task", task, "--head", head, "--predictions", file)
    ours = [json.loads(line) for line in file.read_text().splitlines()][:40]
    texts = [row.split(",")[0] for row in task.read_text().splitlines()[1:41]]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    with torch.no_grad():
        theirs = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits.numpy()
    np.testing.assert_allclose([line["logits"] for line in ours], theirs, atol=1e-5 * max(1, np.abs(theirs).max()))
    assert [model.config.id2label[int(row.argmax())] for row in theirs] == [line["prediction"] for line in ours]


def test_an_export_replaces_an_export_and_nothing_else(swept, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    refused = fft("export", swept[2] / "full", "--out", tmp_path / "mine")
    assert refused.code == 2 and [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    for step in ("best", "latest"):
        assert fft("export", swept[2] / "full", "--out", tmp_path / "hf", "--step", step).code == 0
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_restore_gives_the_model_of_the_run(swept):
    _, _, runs = swept
    restored = package.restore(runs / "lora")
    saved = models.load(runs / "lora" / "model")
    assert restored.primary == "new" and restored.heads == saved.heads
    for path, leaf in flatten(restored.params).items():
        assert np.array_equal(leaf, flatten(saved.params)[path]), path


def test_with_the_adapter_off_a_lora_run_is_the_base_bit_for_bit(swept, tiny):
    run = swept[2] / "lora"
    experiment = load(run / "experiment.json")
    base = load_heads(models.load(tiny / "bert"), run / "heads")
    like = {"theta": trained_leaves(experiment.method, base)[0]}
    theta = Checkpoints(run / "checkpoints").restore(like, record(run)["kept_step"], part=True).tree["theta"]
    adapter = {path: leaf for path, leaf in flatten(theta).items() if "lora" in path}
    assert any(np.any(np.asarray(leaf) != 0) for path, leaf in adapter.items() if path.endswith("lora_b"))
    saved = flatten(models.load(run / "model").params)
    for path, leaf in flatten(base.params).items():
        a, b = (adapter.get(path.removesuffix("kernel") + name) for name in ("lora_a", "lora_b"))
        if a is not None:
            np.testing.assert_array_equal(saved[path], leaf + experiment.method.scale * jnp.matmul(a, b))
        elif not path.startswith("heads/new"):
            np.testing.assert_array_equal(saved[path], leaf)


def test_the_python_way_gives_the_same_run(swept, tiny, tmp_path, capsys):
    seen = []
    run = package.tune(
        tiny / "bert",
        tiny / "new.csv",
        tiny / "original.csv",
        package.LoRA(rank=2),
        out=tmp_path / "run",
        emit=seen.append,
        **{"lr": 1e-2, "steps": 12, "batch_size": 16, "tolerance": 1.0, "eval_every": 6, "keep": "latest"},
    )
    assert run.exit_code == 0 and run.record == record(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(swept[2] / "lora")
    assert [event["event"] for event in seen if event["event"] in ("start", "end")] == ["start", "end"]
    said = capsys.readouterr()
    assert "step 12: new" in said.err and "reading the checkpoint and the data" in said.err and not said.out
    with pytest.raises(package.InputError, match="unknown settings learning_rate"):
        package.tune("m", "n.csv", out=tmp_path / "other", learning_rate=1.0)


# --- data ---


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_reader_that_goes_away_is_no_error_of_ours(tiny, flags):
    process = start("data", tiny / "new.csv", *flags)
    process.stdout.close()
    assert "Broken" not in process.stderr.read() and process.wait() == 141


def test_data_tells_rows_labels_and_lengths(tiny):
    answer = fft("data", tiny / "new.csv", "--model", tiny / "bert", "--json")
    splits = answer.json["splits"].values()
    assert answer.code == 0 and sum(split["rows"] for split in splits) == 240
    assert all(set(split["labels"]) == {"bird", "cat", "dog"} for split in splits)
    assert answer.json["troubles"] == [] and "longest" in answer.err


def test_data_shows_labels_as_they_are_written(tmp_path):
    names = ("[/joy]", "[joy]", "[bold]x")
    rows = [f"a film number {number},{name}" for number in range(60) for name in names]
    (tmp_path / "new.csv").write_text("\n".join(["text,label", *rows]))
    answer = fft("data", tmp_path / "new.csv")
    assert answer.code == 0 and all(f"{name}: " in answer.out for name in names)
