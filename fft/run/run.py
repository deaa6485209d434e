"""run(): from an Experiment to a finished run folder. The one place that knows the order of things.

RUN/experiment.json       what was asked for, resolved; `fft tune --config` repeats it
    run.json              what came out
    metrics.jsonl         one line an event
    heads/ prepared/      heads the run added and the method's statistics, made once
    left/                 what later runs read of this one, where its method leaves anything
    rows/                 hashes of the texts that it was trained on and chosen by, for who scores it later
    checkpoints/          steps to resume from; once run.json is there, what was trained at the best and the last
    model/                the fine-tuned checkpoint in Hugging Face's format,
    adapter/              or, where no such checkpoint can hold it, what is put on the base, in PEFT's
    report.html history.svg history.png
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.progress import Compiled, doing
from fft.core.signals import StopFlag
from fft.data.streams import step_batch
from fft.disk.artefact import save_artefact
from fft.disk.checkpoint import Checkpoints
from fft.disk.files import read_object
from fft.disk.folder import (
    CHECKPOINTS,
    EXPERIMENT,
    LEFT,
    FolderLock,
    agree,
    refuse_foreign,
    refuse_taken,
    unclaimed_if_refused,
)
from fft.disk.journal import Journal
from fft.disk.local import local
from fft.experiment import Experiment, completed, with_defaults
from fft.run.accept import accept, resolved
from fft.run.job import Job, assemble
from fft.run.kept import keep
from fft.run.outcome import run_record, write_model, write_outcome
from fft.run.scoring import Scorer
from fft.run.seen import save_rows
from fft.stats import retention
from fft.training.step import TrainState, result_field
from fft.training.trainable import parameter_counts

SCORINGS = 8
MOST_SKIPPED_IN_A_ROW = 10
LOGGED_STEPS = 100


class Run(NamedTuple):
    """A finished run: its folder and what run.json says."""

    directory: Path
    record: dict
    __repr__ = brief

    @property
    def exit_code(self) -> int:
        """0 every original task was kept (or none was watched), 1 one was not, 4 undecided."""
        verdict, contract = self.record["verdict"], self.record.get("contract")
        if contract is not None and not contract["met"]:
            return retention.EXIT_CODES["fail"]
        return 0 if verdict is None else retention.EXIT_CODES[verdict["outcome"]]


def run(
    experiment: Experiment,
    directory: str | Path,
    emit: Callable[[dict], None] = lambda event: None,
    known: dict[str, dict] | None = None,
) -> Run:
    """Fine-tune as `experiment` says and leave everything in `directory`; an interrupted run goes on where it was.

    `emit` receives every event that metrics.jsonl gets, and {"event": "say", "text"}. Runs that are handed the same
    dict as `known` score a base that they share once.

    Errors: InputError for input that does not fit, a folder of another experiment (with the difference), ten steps in
    a row that are not finite; MachineError for the disk; Stopped after SIGTERM or SIGINT, once the state is saved.
    """
    directory = Path(local(directory, "--out"))
    experiment = resolved(experiment)
    refuse_foreign(directory, EXPERIMENT)
    with StopFlag() as stop:
        if (directory / EXPERIMENT).exists():
            with FolderLock(directory):
                if finished := _claim(directory, experiment):
                    return finished
        else:
            refuse_taken(directory)
        start = time.monotonic()
        with doing("reading the checkpoint and the data"):
            accepted = accept(experiment, directory, lambda text: emit({"event": "say", "text": text}))
        stop.check()
        with FolderLock(directory):
            with unclaimed_if_refused(directory, EXPERIMENT):
                if finished := _claim(directory, experiment):
                    return finished
                agree(directory / "identity.json", accepted.identity, "a run on other weights or data")
                journal = Journal(directory / "metrics.jsonl", emit, {"prepare": time.monotonic() - start})
                with journal.clock("prepare", "preparing"):
                    job = assemble(accepted, directory, stop.check, journal.say)
            result = _run(job, directory, journal, stop, {} if known is None else known)
            return _finished(directory, experiment, result)


def _claim(directory: Path, experiment: Experiment) -> Run | None:
    """Make the folder the experiment's own, or refuse; the run if it is finished already."""
    agree(directory / EXPERIMENT, experiment.to_json(), "another experiment", completed)
    path = directory / "run.json"
    return _finished(directory, experiment, with_defaults(read_object(path))) if path.exists() else None


def _finished(directory: Path, experiment: Experiment, result: dict) -> Run:
    """The run whose run.json is there: nothing goes on from its saved steps any more, so what that would need goes. A
    kill leaves some of it, and the next call takes it away.
    """
    if experiment.retention.checkpoints == "tidy":
        Checkpoints(directory / CHECKPOINTS).reduce({result[name] for name in ("best_step", "kept_step", "steps")})
    return Run(directory, result)


def _run(job: Job, directory: Path, journal: Journal, stop: StopFlag, known: dict[str, dict]) -> dict:
    """Score, train, score again, write; returns the record."""
    checkpoints, scorer = Checkpoints(directory / CHECKPOINTS), Scorer(job, stop.check)
    state, history = _start(job, checkpoints, journal)
    journal.tell(
        "start",
        int(state.step),
        parameters=parameter_counts(job.base, job.trainable),
        steps=job.steps,
        notes=list(job.notes),
    )
    with journal.clock("scoring", "scoring the base on the test rows"):
        before = scorer.base_test(known)
    if not history:
        _score(job, state, history, scorer, journal, None)
        _save(state, history, checkpoints, journal)
    state, stopped = _train(job, state, history, checkpoints, scorer, journal, stop)
    if int(state.skipped):
        journal.say(
            f"warning: {int(state.skipped)} of {counted(int(state.step), 'step')} skipped: loss or gradient not finite"
        )
    best_step = history[retention.best(history)]["step"]
    steps, skipped = int(state.step), int(state.skipped)
    kept = keep(job, state, best_step, checkpoints, scorer, journal)
    del state
    with journal.clock("scoring", "scoring the test rows"):
        after = scorer.test(kept.params)
    with journal.clock("saving", "writing the model"):
        written = write_model(job, directory, kept.params, kept.theta, journal.say)
        if kept.left:
            save_artefact(directory / LEFT, kept.left, {"method": job.experiment.method.label, "step": kept.step})
        save_rows(job, directory)
    ended = {
        "steps": steps,
        "best_step": best_step,
        "kept_step": kept.step,
        "stopped": stopped,
        "skipped_steps": skipped,
        "contract": kept.contract,
    }
    with doing("intervals and pictures"):
        tested = {name: scorer.tested(name, before[name], after[name]) for name in job.tasks}
        result = run_record(job, tested, history, ended, written, journal.seconds)
        write_outcome(directory, result)
    journal.tell("end", ended["steps"], verdict=result["verdict"])
    return result


def _start(job: Job, checkpoints: Checkpoints, journal: Journal) -> tuple[TrainState, list[dict]]:
    """The latest good step and the history up to it, or step 0 and no history; the journal forgets what came after."""
    if not checkpoints.steps():
        journal.resume(-1, {})
        return job.trainable.init(), []
    step, state, extra = checkpoints.restore(jax.eval_shape(job.trainable.init))
    for warning in checkpoints.warnings:
        journal.say(f"warning: {warning}")
    told = [("score", entry["step"]) for entry in extra["history"]]
    told += [("step", kept) for kept in range(1, step + 1) if _is_logged(kept, job)]
    journal.resume(step, extra["seconds"], told)
    journal.say(f"resuming at step {step} of {job.steps}")
    return state, extra["history"]


def _train(
    job: Job,
    state: TrainState,
    history: list[dict],
    checkpoints: Checkpoints,
    scorer: Scorer,
    journal: Journal,
    stop: StopFlag,
) -> tuple[TrainState, str]:
    """The only loop: step, and every so often score all tasks, save, and decide whether to stop."""
    optim, settings = job.experiment.optim, job.experiment.retention
    compiled = Compiled({stream: made.lengths for stream, made in job.batches.items()})
    step, waiting, values = int(state.step), None, None
    while step < job.steps:
        if retention.should_stop(history, settings.patience):
            return state, "patience"
        with journal.clock("train"):
            batch = step_batch(job.batches, step, optim.accumulate)
            with compiled.on(batch):
                state, metrics = job.step(state, job.base, job.aux, batch)
            # Read one step late, the numbers do not keep the device waiting for the host.
            values = _look_at(step, waiting, job, journal) or values
            step, waiting = step + 1, metrics
            due = is_scored(step, job.steps, settings.eval_every)
            if due or stop.requested:
                values, waiting = _look_at(step, waiting, job, journal), None
        broken = values is not None and values["skipped_in_a_row"] >= MOST_SKIPPED_IN_A_ROW
        if due and not broken:
            _score(job, state, history, scorer, journal, values["loss"])
        if due or broken or stop.requested:
            _save(state, history, checkpoints, journal)
            stop.check()
        if broken:
            raise InputError(
                f"the loss or its gradient was not finite {MOST_SKIPPED_IN_A_ROW} steps in a row, up to step {step}: "
                f"lower --lr (now {optim.lr:g}). The last good state is kept in {checkpoints.folder}"
            )
    return state, "steps"


def is_scored(step: int, steps: int, every: int | None) -> bool:
    """Whether both tasks are scored after `step` of `steps`: every so many and the last, or SCORINGS times evenly.

    >>> [step for step in range(1, 21) if is_scored(step, 20, None)], [s for s in (1, 2, 3) if is_scored(s, 3, 2)]
    ([3, 5, 8, 10, 13, 15, 18, 20], [2, 3])
    """
    if every is not None:
        return step % every == 0 or step == steps
    return step * SCORINGS // steps > (step - 1) * SCORINGS // steps


def _look_at(step: int, metrics: dict | None, job: Job, journal: Journal) -> dict[str, float] | None:
    """Tell the metrics of a step, and return them as numbers."""
    if metrics is None:
        return None
    values = {name: float(value) for name, value in metrics.items()}
    fields = {"steps": job.steps, **values}
    if _is_logged(step, job):
        journal.tell("step", step, **fields)
    else:
        journal.emit({"event": "step", "step": step, **fields})
    return values


def _is_logged(step: int, job: Job) -> bool:
    """Whether the metrics of a step are kept: those of about LOGGED_STEPS steps of a run are."""
    return step % max(1, job.steps // LOGGED_STEPS) == 0


def _score(
    job: Job, state: TrainState, history: list[dict], scorer: Scorer, journal: Journal, loss: float | None
) -> None:
    """Append the scores of a state to the history."""
    with journal.clock("scoring", f"scoring step {int(state.step)} on the probe"):
        params = job.finished(state) if history else job.base
        scores = scorer.probe(params, history[0] if history else None)
    entry = {"step": int(state.step), **scores, "loss": loss, "seconds": sum(journal.seconds.values())}
    history.append(entry)
    journal.tell("score", **entry)


def _save(state: TrainState, history: list[dict], checkpoints: Checkpoints, journal: Journal) -> None:
    with journal.clock("saving", f"saving step {int(state.step)}"):
        best = history[retention.best(history)]["step"]
        extra = {"history": history, "seconds": journal.seconds, "best": best}
        checkpoints.save(int(state.step), state, extra, best, result_field(state.average is not None))
