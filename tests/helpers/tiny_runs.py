"""Calling the command line: in this process with what it printed, or as a process of its own."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from fft.commands.cli import main


class Answer(NamedTuple):
    """The exit code of a command and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON object on standard output; anything else there is a failure."""
        (line,) = self.out.splitlines()
        return json.loads(line)


def fft(*arguments):
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Answer(code, out.getvalue(), err.getvalue())


def refused(answer, message, code=2):
    """The answer is one message and the exit code; nothing else went to standard error."""
    assert answer.code == code, answer
    assert answer.err.startswith("fft: ") and answer.err.endswith("\n"), answer.err
    assert answer.err.count("\n") == 1 and message in answer.err, answer.err


def tune(tiny, out, *flags, model="bert", new="new.csv", original="original.csv"):
    """`fft tune --json` on the tiny base in this process; `original` None: no original task.

    Unless said otherwise the method is full, and what is scored and saved on the way is a step in 20.
    """
    kept = ("--original", tiny / original) if original else ()
    kept += () if {"--method", "--config"} & set(flags) else ("--method", "full")
    kept += () if {"--eval-every", "--config"} & set(flags) else ("--eval-every", 20)
    return fft("tune", "--model", tiny / model, "--new", tiny / new, *kept, "--out", out, *flags, "--json")


@contextlib.contextmanager
def at_event(name, step, act):
    """While the block runs, `act()` is called as soon as a command was told of the event `name` of a step."""
    from fft.report.console import Display

    show = Display.show

    def shown(self, event):
        show(self, event)
        if (event["event"], event.get("step")) == (name, step):
            act()

    with mock.patch.object(Display, "show", shown):
        yield


def fail(error=ZeroDivisionError):
    """End a run by an error, one that nobody foresaw unless it is named."""
    raise error


def interrupt(number=signal.SIGTERM):
    """Ask this process to stop."""
    os.kill(os.getpid(), number)


def start(*arguments, **options):
    """Start a command as a process of its own."""
    command = [sys.executable, "-m", "fft", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process):
    """Wait for a process and return its answer."""
    out, err = process.communicate(timeout=300)
    return Answer(process.returncode, out, err)


def record(run):
    """run.json of a run folder."""
    return json.loads((Path(run) / "run.json").read_text(encoding="utf-8"))


def events(run):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(run):
    """{file: sha256} of the weights in a run's model."""
    files = sorted((Path(run) / "model").glob("*.safetensors"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def outcome(run):
    """What two runs of one experiment must agree in to the last bit: the weights, the scores, the history."""
    found = record(run)
    history = [{name: value for name, value in entry.items() if name != "seconds"} for entry in found["history"]]
    kept = ("steps", "best_step", "kept_step", "stopped", "skipped_steps", "crossover", "original", "new", "verdict")
    return {"weights": weights(run), "history": history} | {name: found[name] for name in kept}
