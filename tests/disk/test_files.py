"""Files of a run: canonical hashes, atomic writing, a log without torn lines, one owner per folder."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import jax.numpy as jnp
import numpy as np
import pytest

import fft.disk.files as record
from fft.adapters.reading import read_raw
from fft.core.errors import InputError, MachineError
from fft.core.signals import StopFlag, Stopped
from fft.data.backend import json_object
from fft.disk.environment import environment, git_state
from fft.disk.files import diff, experiment_hash, parsed, plain, write_json
from fft.disk.folder import FolderLock
from fft.disk.log import MetricsLog
from fft.experiment import Data, Experiment
from fft.experiment import load as load_experiment
from fft.models.files.config import read_json as read_config_json


def python(code: str, *arguments, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- JSON ---


def test_hash_is_that_of_the_canonical_json():
    import hashlib

    expected = hashlib.sha256(b'{"a":[1,2.5],"b":{"c":"\xc3\xa9","d":null}}').hexdigest()
    assert experiment_hash({"b": {"d": None, "c": "é"}, "a": (1, 2.5)}) == expected
    assert experiment_hash({"a": [np.int64(1), np.float64(2.5)], "b": {"c": "é", "d": None}}) == expected
    assert experiment_hash({"a": [1, 2.5], "b": {"c": "e", "d": None}}) != expected


READERS = {
    "experiment.json": lambda path: load_experiment(path).to_json(),
    "run.json": record.read_object,
    "config.json": read_config_json,
    "adapter_config.json": lambda path: read_raw(path.parent),
    "tokenizer_config.json": json_object,
}


@pytest.mark.parametrize("name", READERS)
def test_json_may_have_a_byte_order_mark_but_no_other_encoding(tmp_path, name):
    content = Experiment("basé", Data("new.csv")).to_json() if name == "experiment.json" else {"peft_type": "basé"}
    path = tmp_path / name
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    assert READERS[name](path) == plain(content)
    for encoding in ("utf-16", "latin-1"):
        path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
        with pytest.raises(InputError, match=rf"{name}.*not UTF-8 at byte \d+; save it as UTF-8"):
            READERS[name](path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object, got list"),
        ('{"new": 1}', "expected an object in data, got None"),
        ('{"data": {}, "new": 1}', "expected an object in new, got 1"),
        ('{"da', "cannot read .*Unterminated"),
    ],
)
def test_an_edited_record_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=f"{message}.*restore the file from a copy"):
        record.read_object(tmp_path / "run.json", ("data", "new"))


def test_a_byte_order_mark_is_not_part_of_the_text():
    assert (
        parsed('\ufeff{"text": "\ufeffgood"}')
        == parsed('\ufeff{"text": "\ufeffgood"}'.encode())
        == {"text": "\ufeffgood"}
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_an_experiment_with_a_number_that_is_not_finite_is_refused(value):
    with pytest.raises(InputError, match="not finite"):
        experiment_hash({"optim": {"lr": value}})


def test_plain_converts_numpy_and_jax_to_json(tmp_path):
    value = {
        "i": np.int32(3),
        "f": np.float32(0.5),
        "b": np.bool_(True),
        "a": np.array([[1, 2]]),
        "j": jnp.float32(0.25),
        "half": jnp.ones((), jnp.bfloat16),
        "nan": float("nan"),
        "inf": [np.float64("-inf")],
        "p": tmp_path,
        "t": (1, None),
        4: "x",
    }
    expected = {
        "i": 3,
        "f": 0.5,
        "b": True,
        "a": [[1, 2]],
        "j": 0.25,
        "half": 1.0,
        "nan": None,
        "inf": [None],
        "p": str(tmp_path),
        "t": [1, None],
        "4": "x",
    }
    assert plain(value) == expected
    write_json(tmp_path / "run.json", value)
    assert json.loads((tmp_path / "run.json").read_text()) == expected
    with pytest.raises(TypeError, match=r"a\.b\[1\]: JSON cannot hold a set"):
        plain({"a": {"b": [0, {1}]}})


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    write_json(tmp_path / "run.json", {"n": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match=r"run\.json: No space left on device"):
        write_json(tmp_path / "run.json", {"n": 2})
    assert json.loads((tmp_path / "run.json").read_text()) == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_writing_below_a_file_is_a_machine_error(tmp_path):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "run"
    for action in (lambda: write_json(below, {}), lambda: MetricsLog(below / "m")):
        with pytest.raises(MachineError, match="Not a directory"):
            action()
    with pytest.raises(InputError, match="file is a file; choose a folder"), FolderLock(below):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 300, "File name too long. Choose a shorter path"),
        ("gone/run.json", "No such file or directory. Create its folder first"),
        ("folder", "Is a directory. Choose another path"),
    ],
)
def test_errors_of_writing_name_a_remedy(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    with pytest.raises(MachineError, match=message):
        write_json(tmp_path / name, {})


@pytest.mark.parametrize("text", ["[" * 100_000, b"[" * 100_000, "1" * 5_000, "{", b"\xff"])
def test_text_that_cannot_be_parsed_is_a_value_error(text):
    assert parsed('{"a": [1]}') == parsed(b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError):
        parsed(text)


# --- the log ---


def steps_in(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_events_are_lines_and_reach_the_file_at_once(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write("train", step=1, loss=np.float32(0.5), grad=float("nan"))
        assert path.read_text() == '{"event": "train", "step": 1, "loss": 0.5, "grad": null}\n'


def test_truncation_on_resume_drops_later_torn_and_unreadable_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in (0, 10, 20, 30):
            log.write("train", step=step)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"step": 10}', b'"step": 1\xff}') + b'{"event": "train", "st')
    with MetricsLog(path) as log:
        assert path.read_bytes().endswith(b"30}\n")  # the torn line is gone
        assert log.truncate_after(20) == 2
        assert steps_in(path) == [0, 20]
        log.write("train", step=30)
        assert log.truncate_after(30) == 0
    assert steps_in(path) == [0, 20, 30]


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path):
    process = python(
        """
        import resource, signal, sys
        from fft.core.errors import MachineError
        from fft.disk.log import MetricsLog
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        log = MetricsLog(sys.argv[1])
        log.write('train', step=1)
        try:
            log.write('train', step=2, text='x' * 200)
        except MachineError as error:
            print(error.exit_code)
        log.write('train', step=3)
        """,
        tmp_path / "metrics.jsonl",
    )
    out, err = process.communicate(timeout=30)
    assert out == "3\n", err
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 3]


# --- the environment ---


def test_environment_names_versions_device_and_no_path():
    record = environment()._asdict()
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["versions"]["jax"] == __import__("jax").__version__
    assert record["device"]["platform"] == "cpu" and record["device"]["threads"] >= 1
    assert set(record["git"]) == {"commit", "dirty"}
    assert "/" not in json.dumps(record).replace(record["device"]["kind"], "")


def git(folder, *words):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words]
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, env=surroundings
    ).stdout.strip()


def test_git_is_that_of_the_source_and_not_of_a_checkout_around_a_copy(tmp_path, monkeypatch):
    source = tmp_path / "fft"
    source.mkdir()
    (source / "__init__.py").write_text("")
    assert git_state(source) == {"commit": None, "dirty": None}
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    assert git_state(source) == {"commit": None, "dirty": None}  # inside a checkout, but not of it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_state(source) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (source / "new.py").write_text("")
    assert git_state(source)["dirty"] is True


# --- the lock ---


def test_a_second_process_is_refused_and_named_and_a_kill_frees_the_folder(tmp_path):
    holder = python(
        """
        import sys, time
        from fft.disk.folder import FolderLock
        with FolderLock(sys.argv[1]):
            print('held', flush=True)
            time.sleep(60)
        """,
        tmp_path / "run",
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"in use by process {holder.pid}:"), FolderLock(tmp_path / "run"):
        pass
    holder.kill()
    holder.communicate()
    with FolderLock(tmp_path / "run"):
        assert (tmp_path / "run" / "lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(InputError, match=str(os.getpid())), FolderLock(tmp_path / "run"):
            pass
    with FolderLock(tmp_path / "run"):
        pass


# --- the diff ---


def test_diff_names_each_change_by_its_dotted_path():
    old = {"name": "x", "optim": {"lr": 2e-5, "steps": None, "betas": [0.9, 0.999]}, "gone": {"a": 1}, "flag": True}
    new = {"name": "x", "optim": {"lr": np.float64(1e-4), "steps": 3, "betas": (0.9, 0.99)}, "flag": 1, "added": {}}
    assert diff(old, new) == [
        "optim.lr: 2e-05 -> 0.0001",
        "optim.steps: null -> 3",
        "optim.betas: [0.9, 0.999] -> [0.9, 0.99]",
        'gone: {"a": 1} -> (absent)',
        "flag: true -> 1",
        "added: (absent) -> {}",
    ]
    assert diff(old, json.loads(json.dumps(old))) == []


def test_diff_of_a_method_chain_names_the_setting_that_changed():
    lora, ewc = {"name": "lora", "rank": 8}, {"name": "ewc", "strength": 1e3, "samples": 512}
    weaker = {**ewc, "strength": 10.0}
    assert diff({"method": [lora, ewc]}, {"method": [lora, weaker]}) == ["method.ewc.strength: 1000.0 -> 10.0"]
    (turned,) = diff({"method": [lora, ewc]}, {"method": [ewc, lora]})
    assert turned.startswith("method: [") and " -> [" in turned, "another order is another chain"
    assert len(diff({"method": [lora]}, {"method": [lora, ewc]})) == 1


# --- signals ---


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_sets_the_flag_and_the_old_handler_comes_back(number, code):
    before = signal.getsignal(number)
    with StopFlag() as stop:
        stop.check()
        assert stop.requested is None and stop.exit_code is None
        signal.raise_signal(number)
        assert stop.requested == number and stop.exit_code == code
        with pytest.raises(Stopped) as caught:
            stop.check()
        assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_a_second_interrupt_does_not_wait_but_a_second_term_does():
    with StopFlag() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 143
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_in_another_thread_the_flag_does_nothing():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def body():
        with StopFlag() as stop:
            stop.check()
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [True]
