"""Paths: ~ is expanded in every path setting, and paths that are not local are refused before any work."""

import dataclasses
import importlib
import shutil
from pathlib import Path

import pytest

import fft as package
from fft import models
from fft.commands.cli import COMMANDS
from fft.core.errors import InputError
from fft.data.sources import open_source
from fft.disk.local import CHECKPOINT, LOCAL, expanded, local
from fft.experiment import Data, Experiment, from_json
from fft.run.restored import load_model
from fft.run.run import run
from tests.helpers.tiny_runs import fft, refused

SAID = "fft reads and writes local folders"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, which is empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


# --- one path ---


@pytest.mark.parametrize("path", ["runs/1", "./a", "/a/b/", "a~/b", "a/~/b", "run:1/x", "2024-01-01T10:/x", "", "C:/x"])
def test_other_paths_are_unchanged(path):
    assert local(path, "--out") == path


def test_a_tilde_is_the_home_folder(home):
    assert local("~", "--out") == str(home) and local(Path("~/runs/1"), "--out") == f"{home}/runs/1"
    assert local("~/base", "--model", hub=True) == f"{home}/base" and local("hf:a/b", "--model", hub=True) == "hf:a/b"
    assert local("demo:a", "--model", hub=True) == "demo:a"
    for of_nobody in (lambda: local("~nobody-here/x", "--out"), lambda: expanded("~nobody-here/x", "the data")):
        with pytest.raises(InputError, match="~nobody-here/x: no home folder is known by this name"):
            of_nobody()


@pytest.mark.parametrize(
    "path",
    ["s3://b/x", "gs://b", "file:///x", "abfs+x://b", "gs:", "hf://a/b", Path("s3://b/x"), "file:x", "tfds:x", "demo:"],
)
def test_paths_that_are_not_local_are_refused(path):
    for hub in (False, True):
        with pytest.raises(InputError, match=rf"^--out .*: {SAID}; give a path{', or hf:' if hub else ''}"):
            local(path, "--out", hub)


def test_a_path_object_is_shown_as_it_was_given():
    with pytest.raises(InputError, match=r"^--out gs://bucket/run: "):
        local(Path("gs://bucket/run"), "--out")


# --- every path setting ---


@pytest.mark.parametrize("command", COMMANDS)
def test_every_path_setting_is_marked(command):
    """A Path needs no mark; the settings listed are text."""
    for field in dataclasses.fields(importlib.import_module(f"fft.commands.{command}").Flags):
        if field.name in ("model", "base", "tuned", "run", "fisher", "file", "out") and "Path" not in str(field.type):
            assert {CHECKPOINT, LOCAL} & set(field.type.__metadata__), field.name


GIVEN = {
    "tune": ("--model", "m", "--new", "n.csv"),
    "sequence": ("--model", "m", "--tasks", "n.csv", "o.csv"),
    "check": ("b", "t", "--original", "o.csv"),
    "diagnose": ("b", "t", "--original", "o.csv"),
    "repair": ("b", "t", "--original", "o.csv", "--new", "n.csv"),
    "merge": ("b", "t", "--how", "ties"),
    "compare": ("r",),
    "export": ("r",),
    "fisher": ("--model", "m", "--original", "o.csv"),
    "sweep": ("f.py",),
    "demo": (),
}


@pytest.mark.parametrize("command", GIVEN)
def test_no_command_writes_elsewhere(command, tmp_path, monkeypatch):
    """The other paths do not exist, so nothing is read before the check."""
    monkeypatch.chdir(tmp_path)
    for place in ("gs://bucket/run", "s3://bucket/run", "file:///run"):
        refused(fft(command, *GIVEN[command], "--out", place), SAID)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "--model", "s3://m", "--task", "t.csv"), "--model s3://m: "),
        (("eval", "--model", "m", "--task", "t.csv", "--adapter", "s3://a"), "--adapter s3://a: "),
        (("eval", "--model", "m", "--task", "t.csv", "--predictions", "s3://p"), "--predictions s3://p: "),
        (("data", "t.csv", "--model", "s3://m"), "--model s3://m: "),
        (("check", "b", "s3://t", "--original", "o.csv"), "TUNED s3://t: "),
        (("merge", "b", "t", "s3://t", "--how", "soup", "--out", "o"), "TUNED s3://t: "),
        (("merge", "b", "t", "t", "--how", "fisher", "--fisher", "f", "s3://f", "--out", "o"), "--fisher s3://f: "),
        (("repair", *GIVEN["repair"], "--new-fisher", "s3://f", "--out", "o"), "--new-fisher s3://f: "),
        (("fisher", *GIVEN["fisher"], "--previous", "s3://f", "--out", "o"), "--previous s3://f: "),
        (("tune", *GIVEN["tune"], "--out", "o", "--method", "ewc", "--fisher", "s3://f"), "--fisher s3://f: "),
        (("tune", *GIVEN["tune"], "--out", "o", "--method", "ewc", "--ewc.fisher", "s3://f"), "--ewc.fisher s3://f: "),
        (("tune", *GIVEN["tune"], "--out", "o", "--method", "si", "--si.after", "s3://r"), "--si.after s3://r: "),
        (("tune", "--config", "s3://e.json", "--out", "o"), "--config s3://e.json: "),
        (("export", "s3://r", "--out", "o"), "RUN s3://r: "),
        (("compare", "r", "s3://r"), "RUNS s3://r: "),
        (("sweep", "s3://f.py"), "FILE s3://f.py: "),
    ],
)
def test_no_command_reads_elsewhere(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(fft(*arguments), message + SAID)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["s3://b/x.csv", "https://h/x.csv", "a+b://h/x.csv"])
def test_a_source_that_is_not_local_is_refused_with_the_alternatives(source):
    with pytest.raises(InputError, match="give file, demo, tfds, hf or a path, and copy remote data"):
        open_source(source)


def test_experiments_of_files_and_of_programs(home):
    experiment = from_json(
        {"model": "~/base", "new": {"source": "n.csv"}, "method": [{"name": "ewc", "fisher": "~/f"}]}
    )
    assert experiment.model == f"{home}/base" and experiment.method.members[0].fisher == f"{home}/f"
    assert package.SI(after="~/r").after == f"{home}/r" and package.Pseudo(filler="~/m").filler == f"{home}/m"
    assert package.Pseudo(filler="hf:a/b").filler == "hf:a/b" and Experiment("hf:a/b", Data("n.csv")).model == "hf:a/b"
    for refused_here in (
        lambda: Experiment("s3://b", Data("n.csv")),
        lambda: package.EWC(fisher="s3://b"),
        lambda: package.tune("m", "n.csv", out="s3://b"),
        lambda: run(Experiment("m", Data("n.csv")), "s3://b"),
        lambda: package.restore("s3://b"),
        lambda: package.load_adapter("s3://b", None),
        lambda: models.load("s3://b"),
    ):
        with pytest.raises(InputError, match=SAID):
            refused_here()


def test_a_model_data_and_predictions_at_home(tiny, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny / "bert", home / "bert")
    shutil.copy(tiny / "original.csv", home / "o.csv")
    answer = fft("eval", "--model=~/bert", "--task=~/o.csv", "--predictions=~/p.jsonl", "--json")
    assert answer.code == 0 and answer.json["source"] == "~/o.csv"
    assert len((home / "p.jsonl").read_text().splitlines()) == answer.json["n"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert models.load("~/bert").folder == load_model("~/bert").folder == home / "bert"
    monkeypatch.setattr("fft.api.run", lambda experiment, out, emit: (experiment.model, out))
    assert package.tune("~/bert", "~/o.csv", out="~/runs/1") == (f"{home}/bert", f"{home}/runs/1")
