"""Runs whose steps read more than the new task's batch, and what is rejected."""

import json

import pytest

from tests.helpers.tiny_runs import record, tune

SHORT = ("--steps", 12, "--batch-size", 16, "--lr", 3e-3, "--tolerance", 1, "--keep", "latest", "--eval-every", 12)


def drop(run):
    """The drop of the original score on the probe over a run."""
    history = record(run)["history"]
    return history[0]["original"] - history[-1]["original"]


@pytest.fixture(scope="module")
def texts(tiny):
    """A file with the original task's texts, one per line, without labels."""
    lines = (tiny / "original.csv").read_text().splitlines()[1:]
    path = tiny / "texts.txt"
    path.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    return path


def test_each_method_preserves_more_than_full_fine_tuning(tiny, texts, tmp_path):
    shared = (*SHORT, "--head", "shared")
    assert tune(tiny, tmp_path / "full", *shared, new="opposite.csv").code in (0, 1, 4)
    for name, flags in {
        "replay": ("--method", "replay", "--replay.strength", 30, "--replay.ratio", 2),
        "unlabelled": (
            "--method",
            "kl",
            "--kl.on",
            "unlabelled",
            "--unlabelled",
            texts,
            "--kl.strength",
            30,
            "--kl.ratio",
            2,
        ),
        "lwf": ("--method", "lwf", "--lwf.strength", 30),
    }.items():
        answer = tune(tiny, tmp_path / name, *shared, *flags, new="opposite.csv")
        assert answer.code in (0, 1, 4), answer.err
        assert drop(tmp_path / name) < drop(tmp_path / "full") - 0.1, name


def test_predictions_are_preserved_without_any_original_data(tiny, texts, tmp_path):
    flags = ("--method", "lwf+distill", "--distill.on", "unlabelled", "--unlabelled", texts)
    answer = tune(tiny, tmp_path / "run", *SHORT, *flags, original=None)
    assert answer.code == 0, answer.err
    experiment = json.loads((tmp_path / "run" / "experiment.json").read_text())
    assert experiment["unlabelled"]["source"] == str(texts)
    result = record(tmp_path / "run")
    assert result["original"] is None and result["verdicts"] == {}
    unlabelled = result["data"]["unlabelled"]
    assert unlabelled["source"] == str(texts) and unlabelled["splits"]["train"]["rows"] > 10
    assert unlabelled["head"] is None
    assert str(texts) in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        (("--method", "replay"), {"original": None}, "needs data of the original task: give --original"),
        (("--method", "kl"), {"original": None}, "give --original"),
        (("--method", "kl", "--kl.on", "unlabelled"), {}, "needs unlabelled texts: give --unlabelled"),
        (("--method", "full", "--unlabelled", "{texts}"), {}, "--unlabelled is unused by full: leave it out, or"),
        (
            ("--method", "lwf"),
            {"original": None, "model": "bare"},
            "lwf preserves the predictions of the original",
        ),
        (("--method", "lwf", "--lwf.temperature", 0), {}, "--lwf.temperature must be a positive number"),
        (("--method", "replay", "--replay.ratio", 100), {}, "--replay.ratio must be a positive number of at most 16"),
        (
            ("--method", "kl", "--kl.on", "unlabelled", "--unlabelled", "{texts}x"),
            {},
            "there is no such file; expected .csv",
        ),
    ],
)
def test_missing_data_are_named_and_nothing_is_written(tiny, texts, tmp_path, flags, overrides, message):
    flags = [str(flag).format(texts=texts) for flag in flags]
    answer = tune(tiny, tmp_path / "run", *SHORT, *flags, **overrides)
    assert answer.code == 2 and message in answer.err, answer.err
    assert not (tmp_path / "run").exists()
