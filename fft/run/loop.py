"""The only loop: a step; every so often all tasks are scored, the state is saved, and it is decided whether to stop."""

from typing import NamedTuple

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.progress import Compiled
from fft.run.session import Session
from fft.stats import retention

SCORINGS = 8
MOST_SKIPPED_IN_A_ROW = 10


class Trained(NamedTuple):
    """How a training ended; in the words of run.json."""

    steps: int
    best_step: int
    stopped: str
    """"steps" or "patience\""""
    skipped_steps: int


def train(session: Session) -> Trained:
    """Train to the last step, or until nothing was gained for as long as the experiment's patience.

    The caller's `emit` hears of everything as it happens: "step" once its metrics are known, which is while the next
    one runs, "score", and "save" once a step is on disk.

    Raises: InputError for ten steps in a row that are not finite; Stopped, once the state is saved.
    """
    if not session.history:
        session.score(None)
        session.save()
    stopped = _train(session)
    skipped = int(session.state.skipped)
    if skipped:
        steps = counted(session.step, "step")
        session.journal.say(f"warning: {skipped} of {steps} skipped: loss or gradient not finite")
    return Trained(session.step, session.best_step, stopped, skipped)


def _train(session: Session) -> str:
    job, journal, stop = session.job, session.journal, session.stop
    optim, settings = job.experiment.optim, job.experiment.retention
    compiled = Compiled({stream: made.lengths for stream, made in job.batches.items()})
    step, waiting, values = session.step, None, None
    while step < job.steps:
        if retention.should_stop(session.history, settings.patience):
            return "patience"
        with journal.clock("train"):
            batch = job.batch(step)
            with compiled.on(batch):
                session.state, metrics = job.step(session.state, job.base, job.aux, batch)
            # Read one step late, the numbers do not keep the device waiting for the host.
            values = _look_at(session, step, waiting) or values
            step, waiting = step + 1, metrics
            due = is_scoring_step(step, job.steps, settings.eval_every)
            if due or stop.requested:
                values, waiting = _look_at(session, step, waiting), None
        broken = values is not None and values["skipped_in_a_row"] >= MOST_SKIPPED_IN_A_ROW
        if due and not broken:
            assert values is not None  # they were looked at, since the step is due
            session.score(values["loss"])
        if due or broken or stop.requested:
            session.save()
            stop.check()
        if broken:
            raise InputError(
                f"the loss or its gradient was not finite {MOST_SKIPPED_IN_A_ROW} steps in a row, up to step {step}: "
                f"lower --lr (now {optim.lr:g}). The last good state is kept in {session.checkpoints.folder}"
            )
    return "steps"


def is_scoring_step(step: int, steps: int, every: int | None) -> bool:
    """Whether both tasks are scored after `step` of `steps`: every so many and the last, or SCORINGS times evenly.

    >>> [step for step in range(1, 21) if is_scoring_step(step, 20, None)]
    [3, 5, 8, 10, 13, 15, 18, 20]
    """
    if every is not None:
        return step % every == 0 or step == steps
    return step * SCORINGS // steps > (step - 1) * SCORINGS // steps


def _look_at(session: Session, step: int, metrics: dict | None) -> dict[str, float] | None:
    """Tell the metrics of a step, and return them as numbers."""
    if metrics is None:
        return None
    values = {name: float(value) for name, value in metrics.items()}
    fields = {"steps": session.job.steps, **values}
    if session.is_logged(step):
        session.journal.tell("step", step, **fields)
    else:
        session.journal.emit({"event": "step", "step": step, **fields})
    return values
