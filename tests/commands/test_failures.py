"""What nobody foresaw ends with a code of its own and one message; and what the machine and its settings may do."""

import errno
import io
import json
import os
import pwd
import sys
import tempfile
from pathlib import Path

import jax
import pytest

import fft as package
from fft.commands import cli
from fft.commands.failures import UNFORESEEN, message_and_code
from fft.core.errors import InputError, MachineError
from fft.core.signals import Stopped
from fft.disk.local import local
from fft.disk.surroundings import home_folder, keep_a_home, keep_float32
from tests.helpers.tiny_runs import fft, finish, refused, start

ROWS = "text,label\na good film,né☃\na bad film,b\n" * 20


def broken(monkeypatch, error):
    """`fft data` with a fault in it."""

    def describe(*_):
        raise error

    monkeypatch.setattr("fft.data.describe", describe)


# --- one message and an exit code ---


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("no rows"), 2, "no rows"),
        (MachineError("no network"), 3, "no network"),
        (Stopped(143), 143, "stopped by SIGTERM"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 3, "Out of memory. Lower --batch-size"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nmore"), 3, "RESOURCE_EXHAUSTED: Out of memory. Lower"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 3, "No space left on device: x"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 3, "File name too long: x. Choose a shorter path"),
        (OSError(errno.ENOENT, "No such file", "x"), UNFORESEEN, "unexpected error: FileNotFoundError: [Errno 2]"),
        (AssertionError(), UNFORESEEN, "unexpected error: AssertionError: ; the traceback"),
        (RuntimeError("one\ntwo"), UNFORESEEN, "unexpected error: RuntimeError: one; the traceback is in "),
    ],
)
def test_every_error_has_a_message_and_a_code(error, code, message, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text, exit_code = message_and_code(error)
    assert exit_code == code and text.startswith(message) and "\n" not in text


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_what_is_not_foreseen_leaves_its_traceback_in_a_file(flags, tmp_path, monkeypatch):
    broken(monkeypatch, KeyError("F64"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = fft("data", "rows.csv", *flags)
    (file,) = tmp_path.iterdir()
    refused(answer, f"fft: unexpected error: KeyError: 'F64'; the traceback is in {file}: please report it", UNFORESEEN)
    assert "Traceback" in file.read_text() and file.read_text().endswith("KeyError: 'F64'\n")
    if flags:
        assert answer.json == {"error": answer.err.removeprefix("fft: ").rstrip(), "exit_code": UNFORESEEN}


def test_a_traceback_that_no_file_takes_is_shown(tmp_path, monkeypatch):
    broken(monkeypatch, KeyError("F64"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    answer = fft("data", "rows.csv")
    assert answer.code == UNFORESEEN and answer.err.startswith("Traceback")
    message = "fft: unexpected error: KeyError: 'F64'; the traceback is above: please report it"
    assert answer.err.splitlines()[-1] == message


# --- standard output ---


def to_stream(monkeypatch, stream, *arguments):
    """Run a command that prints to a stream; the exit code, and what the stream holds."""
    monkeypatch.setattr(sys, "stdout", stream)
    return cli.main(list(map(str, arguments)))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_the_output_cannot_hold(tmp_path, monkeypatch, encoding):
    (tmp_path / "né.csv").write_text(ROWS, encoding="utf-8")
    held = io.BytesIO()
    assert to_stream(monkeypatch, io.TextIOWrapper(held, encoding), "data", tmp_path / "né.csv") == 0
    assert ("é☃" if encoding == "utf-8" else r"\u2603").encode(encoding) in held.getvalue()
    held = io.BytesIO()
    flags = (tmp_path / "né.csv", "--json")
    assert to_stream(monkeypatch, io.TextIOWrapper(held, encoding), "data", *flags) == 0
    assert "né☃" in json.loads(held.getvalue().decode(encoding))["splits"]["train"]["labels"]
    assert to_stream(monkeypatch, io.TextIOWrapper(io.BytesIO(), encoding), "--help") == 0


def test_a_full_or_closed_output(tmp_path, monkeypatch):
    (tmp_path / "rows.csv").write_text(ROWS, encoding="utf-8")
    for flags in ((), ("--json",)):
        with open("/dev/full", "w") as full:
            assert to_stream(monkeypatch, full, "data", tmp_path / "rows.csv", *flags) == 3
        assert to_stream(monkeypatch, None, "data", tmp_path / "rows.csv", *flags) == 0


def test_a_name_that_is_no_text_is_refused(tmp_path):
    name = os.fsdecode(b"caf\xe9.csv")
    refused(fft("data", name), r"'caf\udce9.csv' has bytes that are not utf-8: rename the file")


# --- no home folder ---


def test_no_home_folder(monkeypatch):
    def getpwuid(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setenv("HOME", "as it was")
    for set_to in (None, "relative"):
        monkeypatch.delenv("HOME") if set_to is None else monkeypatch.setenv("HOME", set_to)
        keep_a_home()
        assert home_folder() is None and Path.home().is_absolute(), "altair asks when it is imported"
        with pytest.raises(InputError, match="--out ~/runs: no home folder is known"):
            local("~/runs", "--out")
    monkeypatch.setenv("HOME", "/home/me")
    keep_a_home()
    assert home_folder() == "/home/me"


# --- what JAX is told by the environment ---


def test_a_platform_that_is_not_here_is_named(tiny):
    arguments = ("--model", tiny / "bert", "--task", tiny / "original.csv", "--json")
    answer = finish(start("eval", *arguments, env=os.environ | {"JAX_PLATFORMS": "cuda,bogus"}))
    said = "JAX_PLATFORMS=cuda,bogus: this machine or this jax has no such device (it has: "
    assert answer.code == 3 and answer.json["error"].startswith(said) and answer.json["error"].endswith("; unset it")


def test_numbers_of_64_bits(tiny, tmp_path, monkeypatch):
    """The command line computes in 32 whatever the environment says; a program is told."""
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    keep_float32()
    assert os.environ["JAX_ENABLE_X64"] == "0"
    with jax.enable_x64(True), pytest.raises(InputError, match="jax_enable_x64 is on, and fft computes in float32"):
        package.tune(tiny / "bert", tiny / "new.csv", method="full", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
