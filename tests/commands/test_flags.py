"""Flags: what they mean, what is refused, and what the help does not wait for."""

import importlib.metadata
import json
import re
import subprocess
import sys
import textwrap

import pytest

from fft.commands import data, export, tune
from fft.commands.cli import COMMANDS, dotted
from fft.experiment import Data, Experiment, Optim, Retention
from fft.methods import LoRA
from tests.helpers.tiny_runs import fft, finish, refused, start

FILES = ("--model", "m", "--new", "n.csv", "--original", "o.csv")
MINIMAL = ("--out", "x", "--model", "m", "--new", "n.csv")


def experiment_of(*arguments):
    """What `fft tune` would run."""
    import tyro

    def cli(kind, **more):
        return tyro.cli(kind, config=(tyro.conf.FlagCreatePairsOff,), **more)

    return tune.parse(dotted(list(map(str, arguments)), tune.Flags), cli).experiment()


def test_a_setting_of_a_task_may_be_spelled_with_a_dash_or_a_dot():
    assert dotted(["--new-text", "a", "--original-train_rows=3"], tune.Flags) == [
        *("--new.text", "a", "--original.train-rows=3")
    ]
    untouched = ["--original-head", "fit", "--new", "a-test", "--out", "new-text", "--task-text", "t"]
    assert dotted(untouched, tune.Flags) == untouched
    assert dotted(["--task-text", "t", "--new-text"], data.Flags) == ["--task.text", "t", "--new-text"]
    both = [
        experiment_of(*MINIMAL, "--original", "o", f"--new{mark}validation=v", f"--original{mark}test", "t")
        for mark in "-."
    ]
    assert both[0] == both[1] and both[0].new.validation == "v" and both[0].original[0].test == "t"
    assert experiment_of(*MINIMAL, "--original", "o", "--original-head", "fit").original_head == ("fit",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "a.csv", "b.csv"), "--task takes one source, got 2: a.csv, b.csv. Join them: awk"),
        (("tune", *MINIMAL[:4], "--new", "a.csv", "b c.csv", "--lr", 1), "|| NR == 1' a.csv 'b c.csv' > joined.csv"),
        (("tune", *MINIMAL, "--new-test=a.csv", "b.csv"), "--new.test takes one source, got 2: a.csv, b.csv"),
        (("tune", *MINIMAL, "--unlabelled", "a.txt", "b.txt"), "got 2: a.txt, b.txt. Join them: awk 1 a.txt b.txt"),
        (("data", "in/a.md", "in/b.md"), "got 2: in/a.md, in/b.md. Name their folder, or a pattern in quotes"),
        (("data", "in/a.md", "in/b.md"), "which the shell leaves as it is: --task 'in/*.md'"),
        (("repair", "m", "r", "--original", "o.csv", "--new", *(f"{n}.csv" for n in range(9))), "9: 0.csv to 8.csv"),
        (("diagnose", "m", "r", "--original", "o.csv", "p.jsonl", "--out", "x"), "--original takes one source"),
    ],
)
def test_a_second_file_behind_a_flag_of_one_source(arguments, message):
    refused(fft(*arguments), message)


def test_a_value_or_a_place_behind_a_source_is_no_second_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.v1").mkdir()
    for arguments in (
        ("diagnose", "--original", "o.csv", "base.v1", "hf:a/b.c", "--rows", "9"),
        ("tune", *MINIMAL, "--original", "o.csv", "p.csv"),
    ):
        answer = fft(*arguments)
        assert answer.code == 2 and "takes one source" not in answer.err


def test_flags_override_the_file_and_the_rest_of_it_stays(tmp_path):
    wanted = Experiment(
        *("m", Data("n.csv", text="review"), Data("o.csv"), LoRA(rank=4)),
        **{"optim": Optim(lr=1e-3, epochs=2.0), "retention": Retention(tolerance=0.5), "head": "shared", "seed": 7},
    )
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(wanted.to_json()))
    assert experiment_of("--config", file, "--out", "x") == wanted
    changed = experiment_of("--config", file, "--out", "x", "--lr", 2e-3, "--lora.rank", 16, "--new-label", "stars")
    assert (changed.optim, changed.method) == (Optim(lr=2e-3, epochs=2.0), LoRA(rank=16))
    assert changed.new == Data("n.csv", text="review", label="stars") and changed.head == "shared"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "COMMAND"),
        (("finetune",), "finetune"),
        (("tune",), "--out"),
        (("tune", "--out", "{0}/x", "--new", "n.csv"), "--model is missing"),
        (("tune", "--out", "{0}/x", "--model", "m"), "--new is missing"),
        (("tune", "--model", "m", "--new", "n.csv"), "--out"),
        (("tune", "--out", "{0}/x", "--model", "m", "--new", "n.csv", "--learning-rate", "1"), "--learning-rate"),
        (("tune", "--out", "{0}/x", "--model", "m", "--new", "n.csv", "--lr", "-1"), "--lr must be a positive number"),
        (("tune", "--out", "{0}/x", "--model", "m", "--new", "n.csv", "--lr", "fast"), "fast"),
        (("tune", "--out", "{0}/x", *FILES, "--new-train-rows", "0"), "--new-train-rows must be at least 1"),
        (("tune", "--out", "{0}/x", *FILES, "--original.train_rows=0"), "--original.train-rows must be at least 1"),
        (
            ("diagnose", "m", "r", "--original", "o.csv", "--out", "{0}/x", "--fit-rows", "9", "--rows", "0"),
            "--rows must",
        ),
        (("tune", "--out", "{0}/x", *FILES, "--metric", "pearson"), "--metric pearson fits no task here"),
        (("tune", "--out", "{0}/x", "--model", "m", "--new", "n.csv", "--method", "sgd"), "unknown method 'sgd'"),
        (("tune", "--out", "{0}/x", "--model", "m", "--new", "n.csv", "--method", "ewc"), "give --original"),
        (("tune", "--out", "{0}/x", *FILES, "--lora.rank", "4"), "a setting of lora is unused: --method auto chose kl"),
        (("tune", "--out", "{0}/x", *FILES, "--method", "full", "--lora.rank", "4"), "full does not name lora"),
        (("tune", "--out", "{0}/x", "--config", "{0}/none.json"), "none.json"),
        (("tune", "--out", "{0}/x", "--config", "{0}/broken.json"), "is not JSON"),
        (("tune", "--out", "{0}/x", "--config", "{0}/latin.json"), "latin.json"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(tmp_path, arguments, message):
    (tmp_path / "broken.json").write_text('{"model": ')
    (tmp_path / "latin.json").write_bytes('{"model": "é"}'.encode("latin-1"))
    arguments = [argument.format(tmp_path) for argument in arguments]
    for answer in (fft(*arguments), fft(*arguments, "--json")):
        assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err
        assert not (tmp_path / "x").exists()
    assert answer.json["exit_code"] == 2


# --- the help ---


def help_of(command):
    """The help of a command as one line, its frames left out."""
    answer = fft(command, "--help")
    assert answer.code == 0
    return " ".join(re.sub("[─│╭╮╰╯]", " ", answer.out).split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_a_default_once_and_no_empty_one(command):
    found = help_of(command)
    assert not re.findall(r"\(default: [^()]*\) \(default", found)
    assert "(default: '')" not in found and "(default: )" not in found


def test_the_help_of_tune_marks_what_must_be_given():
    required = re.findall(r"(--[\w.-]+) [A-Z]+ (?:(?!--\w).)*?\(required\)", help_of("tune"))
    assert required == ["--out", "--model", "--new"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_does_not_offer_none_at_every_flag(command):
    assert "{None}" not in help_of(command)


def test_none_unsets_what_a_file_sets(tmp_path):
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(Experiment("m", Data("n.csv"), optim=Optim(steps=8)).to_json()))
    assert experiment_of("--config", file, "--out", "x").optim.steps == 8
    assert experiment_of("--config", file, "--out", "x", "--steps", "None").optim.steps is None


UNNAMED = {
    "check": "BASE TUNED",
    "diagnose": "BASE TUNED",
    "repair": "BASE TUNED",
    "merge": "BASE TUNED [TUNED ...]",
    "compare": "RUN [RUN ...]",
    "export": "RUN",
    "generate": "MODEL",
    "data": "SRC",
    "sweep": "FILE",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_names_what_stands_without_a_flag(command):
    said, named = help_of(command), UNNAMED.get(command, "")
    assert re.match(rf"usage: fft {command} \[-h\] (\[OPTIONS\] )?{re.escape(named)}", said), said[:100]
    assert ("positional arguments" in said) == bool(named)


def test_what_stands_without_a_flag_may_be_named_too():
    def seen(kind, args):
        return args

    assert data.parse(["--task", "a.csv"], seen) == data.parse(["--task=a.csv"], seen) == ["a.csv"]
    assert export.parse(["--run", "r", "--run.x"], seen) == ["r", "--run.x"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spelling", [("--out", ""), ("--out=",)])
def test_an_empty_out_is_not_the_folder_one_is_in(command, spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = fft(command, *spelling)
    assert (answer.code, list(tmp_path.iterdir())) == (2, [])
    assert answer.err == "fft: --out is empty: name a folder, such as --out runs/1, or . for the current folder\n"


def test_the_version_is_that_of_the_distribution():
    answer = fft("--version")
    assert (answer.code, answer.out) == (0, f"fft {importlib.metadata.version('fft-jax')}\n")


# --- what is imported ---

HEAVY = (
    *("jax", "tyro", "rich", "flax", "transformers", "orbax", "grain", "tensorflow_datasets"),
    *("scipy", "sklearn", "altair", "pyarrow"),
)


def imported(code):
    """Which heavy modules a fresh interpreter holds after some code."""
    code = textwrap.dedent(code) + f"\nprint(*(m for m in {HEAVY} if m in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_list_of_commands_needs_nothing_heavy():
    assert imported("import sys, fft, fft.commands.cli; fft.commands.cli.main(['--help'])") == set()


def test_the_help_of_tune_needs_no_model_and_no_data_library():
    assert imported("import sys, fft.commands.cli; fft.commands.cli.main(['tune', '--help'])") <= {
        "jax",
        "tyro",
        "rich",
    }


def test_the_command_is_installed_and_lists_the_commands():
    answer = finish(start("--help"))
    assert answer.code == 0 and all(command in answer.out for command in ("tune", "eval", "compare", "sweep", "demo"))
