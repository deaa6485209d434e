"""Progress: bars on a terminal, elsewhere a line after some silence, nothing without a display."""

import io
import time

import numpy as np
import pytest
from rich.console import Console

from fft.core.batch import Inputs
from fft.core.progress import Compiled, announced, doing
from fft.report import console as display
from fft.report.console import Progress


@pytest.fixture
def console(monkeypatch):
    monkeypatch.setattr(display, "QUIET", 0.05)
    monkeypatch.setattr(display, "LOOK", 0.01)
    return Console(file=io.StringIO(), width=100)


def waited_for(console, text):
    """Wait for a text, and return whether it is printed within 5 seconds."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if text in console.file.getvalue():
            return True
        time.sleep(0.01)
    return False


def test_after_silence_the_current_work_and_its_progress_are_printed(console):
    with Progress(console, "fft tune"):
        assert waited_for(console, "… fft tune, 0 s so far")
        with doing("preparing [kl]"), doing("rows", total=1200, completed=200) as work:
            work.advance(100)
            assert waited_for(console, "… preparing [kl], rows: 300 of 1,200, 0 s so far")
        with doing("original rows") as work:
            work.update(completed=7)
            assert waited_for(console, "… original rows: 7, 0 s so far")
    printed = console.file.getvalue()
    time.sleep(0.2)
    assert console.file.getvalue() == printed, "the work is over"
    with doing("more"):
        time.sleep(0.2)
    assert console.file.getvalue() == printed


def test_nothing_is_printed_while_other_lines_come(console, monkeypatch):
    monkeypatch.setattr(display, "QUIET", 0.5)
    with Progress(console), doing("training", total=10):
        for step in range(10):
            console.print(f"step {step}")
            time.sleep(0.1)
    assert "…" not in console.file.getvalue()


def test_a_terminal_has_bars():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Progress(console, "fft tune"), doing("scoring [a]", total=4) as work:
        work.advance(3)
        work.update(more="new 0.5")
        assert waited_for(console, "new 0.5")
    shown = console.file.getvalue()
    assert "scoring [a]" in shown and "3/4" in shown and "new 0.5" in shown


def texts(*shape):
    return Inputs(*[np.zeros(shape, np.int32)] * 3)


def test_a_compilation_is_displayed_once_per_length(console):
    seen = []

    def program(params, batch):
        seen.append(params)
        if len(seen) in (1, 3):
            assert waited_for(console, f"texts of {batch.ids.shape[-1]} tokens, length {1 + len(seen) // 2} of 2")
        return batch

    call = announced(program, "the scoring", (8, 16))
    with Progress(console):
        for number, tokens in enumerate((16, 16, 8, 8)):
            call(number, texts(2, tokens))
    assert seen == [0, 1, 2, 3] and "compiling the scoring" in console.file.getvalue()


def test_the_compilations_of_a_step_are_displayed_by_stream(console):
    compiled = Compiled({"new": (8, 16), "original": (4,)})
    batch = {"new": texts(1, 2, 8), "original": texts(1, 2, 4)}
    both = "… compiling the step (new 8 tokens, length 1 of 2; original 4 tokens, length 1 of 1), 0 s"
    with Progress(console):
        with compiled.on(batch):
            assert waited_for(console, both)
        with compiled.on(batch), doing("here"):
            assert waited_for(console, "… here, 0 s")
        with compiled.on({"new": texts(1, 2, 16)}):
            assert waited_for(console, "… compiling the step (new 16 tokens, length 2 of 2), 0 s")
