"""run(): from an Experiment to a finished run folder. The one place that knows the order of things.

RUN/experiment.json       what was asked for, resolved; `fft tune --config` repeats it
    run.json              what came out
    metrics.jsonl         one line an event
    heads/ prepared/      heads the run added and the method's statistics, made once
    checkpoints/          steps to resume from, the best among them
    model/                the fine-tuned checkpoint in Hugging Face's format,
    adapter/              or, where no such checkpoint can hold it, what is put on the base, in PEFT's
    report.html history.svg history.png
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fft import record, retention
from fft.accept import accept, resolved
from fft.brief import brief
from fft.checkpoint import Checkpoints
from fft.contract import selection
from fft.errors import InputError
from fft.experiment import Experiment, completed
from fft.folder import EXPERIMENT, FolderLock, agree, refuse_foreign, refuse_taken, unclaimed_if_refused
from fft.job import Job, assemble
from fft.journal import Journal
from fft.local import local
from fft.naming import counted
from fft.outcome import KEPT_BASE, run_record, write_model, write_outcome
from fft.paths import Params
from fft.schema import alone
from fft.scoring import Scorer
from fft.signals import StopFlag
from fft.streams import step_batch
from fft.train import TrainState
from fft.trainable import parameter_counts

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
        accepted = accept(experiment, directory, lambda text: emit({"event": "say", "text": text}))
        stop.check()
        with FolderLock(directory):
            with unclaimed_if_refused(directory, EXPERIMENT):
                if finished := _claim(directory, experiment):
                    return finished
                agree(directory / "identity.json", accepted.identity, "a run on other weights or data")
                journal = Journal(directory / "metrics.jsonl", emit, {"prepare": time.monotonic() - start})
                with journal.clock("prepare"):
                    job = assemble(accepted, directory, stop.check, journal.say)
            return Run(directory, _run(job, directory, journal, stop, {} if known is None else known))


def _claim(directory: Path, experiment: Experiment) -> Run | None:
    """Make the folder the experiment's own, or refuse; the run if it is finished already."""
    agree(directory / EXPERIMENT, experiment.to_json(), "another experiment", completed)
    path = directory / "run.json"
    return Run(directory, record.read_object(path)) if path.exists() else None


def _run(job: Job, directory: Path, journal: Journal, stop: StopFlag, known: dict[str, dict]) -> dict:
    """Score, train, score again, write; returns the record."""
    checkpoints, scorer = Checkpoints(directory / "checkpoints"), Scorer(job, stop.check)
    state, history = _start(job, checkpoints, journal)
    journal.tell(
        "start",
        int(state.step),
        parameters=parameter_counts(job.base, job.trainable),
        steps=job.steps,
        notes=list(job.notes),
    )
    with journal.clock("scoring"):
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
    if job.watch is None:
        kept_step, params, theta = _kept(job, state, best_step, checkpoints, journal)
        contract = None
    else:
        kept_step, params, theta, contract = _kept_by_contract(job, state, best_step, checkpoints, scorer, journal)
    del state
    with journal.clock("scoring"):
        after = scorer.test(params)
    with journal.clock("saving"):
        written = write_model(job, directory, params, theta, journal.say)
    tested = {name: scorer.tested(name, before[name], after[name]) for name in job.tasks}
    ended = {
        "steps": steps,
        "best_step": best_step,
        "kept_step": kept_step,
        "stopped": stopped,
        "skipped_steps": skipped,
        "contract": contract,
    }
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


def _kept(
    job: Job, state: TrainState, best_step: int, checkpoints: Checkpoints, journal: Journal
) -> tuple[int, Params, Params]:
    """The step that is kept, the best or the last one, its parameters, and the tree they were merged from."""
    kept_step = int(state.step)
    if job.experiment.retention.keep == "best" and best_step != kept_step:
        del state  # the restored step takes its place in memory
        kept_step, state = _restore_best(best_step, jax.eval_shape(job.trainable.init), checkpoints, journal)
    if kept_step == 0:
        journal.say(KEPT_BASE)
        return 0, job.base, state.result
    return kept_step, job.finished(state), state.result


def _kept_by_contract(
    job: Job, state: TrainState, best_step: int, checkpoints: Checkpoints, scorer: Scorer, journal: Journal
) -> tuple[int, Params, Params, dict]:
    """The step that is kept, the parameters at it or on the way to it, the tree of that step, and what run.json says
    of the contract."""
    thetas = {int(state.step): state.result}

    def restored() -> Params:
        best = _restore_best(best_step, jax.eval_shape(job.trainable.init), checkpoints, journal)[1]
        thetas[best_step] = best.result
        return job.finished(best)

    trained = {best_step: restored} if best_step else {}
    trained[int(state.step)] = lambda: job.finished(state)
    way = selection.WAY if job.experiment.method.plain else ()
    signs = {name: scorer.metric(name).sign for name in job.tasks}
    with journal.clock("scoring"):
        chosen = selection.choose(job.base, job.fresh_heads, trained, scorer.judge, signs, job.tolerances, way)
    strength = float(jnp.exp(state.dual.log_strength))
    written = alone(job.experiment.retention.max_drop)
    contract = selection.told(chosen, written, job.tolerances, strength)
    journal.say(selection.sentence(contract))
    return chosen.point.step, chosen.params, thetas.get(chosen.point.step, state.result), contract


def _restore_best(step: int, like: TrainState, checkpoints: Checkpoints, journal: Journal) -> tuple[int, TrainState]:
    """The saved state of the best step, or of the latest good one where the best is damaged on disk."""
    try:
        return step, checkpoints.restore(like, step).tree
    except InputError as error:
        journal.say(f"warning: the best step cannot be kept, the latest good one is: {error}")
    found = checkpoints.restore(like)
    return found.step, found.tree


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
    step, waiting, values = int(state.step), None, None
    while step < job.steps:
        if retention.should_stop(history, settings.patience):
            return state, "patience"
        with journal.clock("train"):
            batch = step_batch(job.batches, step, optim.accumulate)
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
    with journal.clock("scoring"):
        params = job.finished(state) if history else job.base
        scores = scorer.probe(params, history[0] if history else None)
    entry = {"step": int(state.step), **scores, "loss": loss, "seconds": sum(journal.seconds.values())}
    history.append(entry)
    journal.tell("score", **entry)


def _save(state: TrainState, history: list[dict], checkpoints: Checkpoints, journal: Journal) -> None:
    with journal.clock("saving"):
        best = history[retention.best(history)]["step"]
        extra = {"history": history, "seconds": journal.seconds, "best": best}
        checkpoints.save(int(state.step), state, extra, best=best)
