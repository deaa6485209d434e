"""run(): from an Experiment to a finished run folder. This function alone defines the order of a run's parts.

RUN/experiment.json       the resolved experiment; `fft tune --config` repeats it
    run.json              the results
    metrics.jsonl         one line an event
    heads/ prepared/      new heads and the method's statistics, computed once
    left/                 arrays for later runs, if the method has any
    rows/                 hashes of the texts that the model was trained on and selected by, for later scoring
    checkpoints/          steps to resume from; once run.json is there, the trained trees of the best and the last
    model/                the fine-tuned checkpoint in Hugging Face's format,
    adapter/              or, where no such checkpoint can hold the result, the adapter in PEFT's
    report.html history.svg history.png
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fft.core.progress import doing
from fft.core.signals import StopFlag
from fft.disk.journal import Journal
from fft.experiment import Experiment
from fft.run.accept import accept, resolved
from fft.run.claim import Run, RunFolder
from fft.run.job import assemble
from fft.run.kept import keep
from fft.run.loop import train
from fft.run.outcome import finish
from fft.run.session import Session


def run(
    experiment: Experiment,
    directory: str | Path,
    emit: Callable[[dict], None] = lambda event: None,
    known: dict[str, dict] | None = None,
) -> Run:
    """Fine-tune as `experiment` says and write everything to `directory`; an interrupted run is resumed.

    `emit` receives every event of metrics.jsonl ("start", "step", "score", "end"), and {"event": "say", "text"} and
    {"event": "save", "step"}; an exception in it ends the run at once, as a kill would. Runs that share the dict
    `known` score a common base only once.

    Raises: InputError for input that does not fit, a folder of another experiment (with the difference), ten steps in
    a row that are not finite; MachineError for the disk; Stopped after SIGTERM or SIGINT, once the state is saved.
    """
    experiment = resolved(experiment)
    with StopFlag() as stop, RunFolder(directory, experiment) as folder:
        if folder.finished:
            return folder.finished
        begun = time.monotonic()
        with doing("reading the checkpoint and the data"):
            accepted = accept(experiment, folder.path, partial(_say, emit))
        stop.check()
        with folder.claim(accepted.identity):
            if folder.finished:  # by another process, while this one read the data
                return folder.finished
            journal = Journal(folder.path / "metrics.jsonl", emit, {"prepare": time.monotonic() - begun})
            with journal.clock("prepare", "preparing"):
                job = assemble(accepted, folder.path, stop.check, journal.say)
        session = Session(job, folder.path, journal, stop)
        before = session.test_base({} if known is None else known)
        trained = train(session)
        kept = keep(session, trained)
        return folder.finish(finish(session, before, trained, kept))


def _say(emit: Callable[[dict], None], text: str) -> None:
    emit({"event": "say", "text": text})
