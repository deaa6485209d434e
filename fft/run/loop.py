"""The training loop: take steps, and at regular intervals score all tasks, save the state and check whether to stop."""

from typing import NamedTuple

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.progress import Compiled
from fft.run.session import Session
from fft.stats import retention

SCORINGS = 8
MOST_SKIPPED_IN_A_ROW = 10


class Trained(NamedTuple):
    """How training ended; the fields are those of run.json."""

    steps: int
    best_step: int
    stopped: str
    """"steps" or "patience\""""
    skipped_steps: int


def train(session: Session) -> Trained:
    """Train to the last step, or until the combined score has not improved for the experiment's patience.

    The caller's `emit` receives the events "step" (once its metrics are known, while the next step runs), "score", and
    "save" once a step is on disk.

    Raises: InputError after MOST_SKIPPED_IN_A_ROW steps in a row that are not finite, or all steps of a shorter run;
    Stopped, once the state is saved.
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
    settings = job.experiment.retention
    compiled = Compiled({stream: batches.lengths for stream, batches in job.batches.items()})
    step, waiting, values = session.step, None, None
    most_skipped = min(MOST_SKIPPED_IN_A_ROW, job.steps)
    if int(session.state.skipped_in_a_row) >= most_skipped:  # an earlier process stopped here for that
        raise _not_finite(session, most_skipped)
    while step < job.steps:
        if retention.should_stop(session.history, settings.patience):
            return "patience"
        with journal.clock("train"):
            batch = job.batch(step)
            with compiled.on(batch):
                session.state, metrics = job.step(session.state, job.base, job.aux, batch)
            # Metrics are read one step late, so that the device does not wait for the host.
            values = _log_metrics(session, step, waiting) or values
            step, waiting = step + 1, metrics
            due = is_scoring_step(step, job.steps, settings.eval_every)
            if due or stop.requested:
                values, waiting = _log_metrics(session, step, waiting), None
        broken = values is not None and values["skipped_in_a_row"] >= most_skipped
        if due and not broken:
            assert values is not None  # read above, since the step is due
            session.score(values["loss"])
        if due or broken or stop.requested:
            session.save()
            stop.check()
        if broken:
            raise _not_finite(session, most_skipped)
    return "steps"


def _not_finite(session: Session, in_a_row: int) -> InputError:
    steps, lr = counted(in_a_row, "step"), session.job.experiment.optim.lr
    return InputError(
        f"the loss or its gradient was not finite {steps} in a row, up to step {session.step}: lower --lr (now {lr:g}) "
        f"or the method's strength. The last good state is saved in {session.checkpoints.folder}"
    )


def is_scoring_step(step: int, steps: int, every: int | None) -> bool:
    """Whether all tasks are scored after `step` of `steps`: every `every` steps and at the last; None: SCORINGS times
    in all, evenly spaced.

    >>> [step for step in range(1, 21) if is_scoring_step(step, 20, None)]
    [3, 5, 8, 10, 13, 15, 18, 20]
    """
    if every is not None:
        return step % every == 0 or step == steps
    return step * SCORINGS // steps > (step - 1) * SCORINGS // steps


def _log_metrics(session: Session, step: int, metrics: dict | None) -> dict[str, float] | None:
    """Report the metrics of a step, and return them as floats; None without metrics."""
    if metrics is None:
        return None
    values = {name: float(value) for name, value in metrics.items()}
    fields = {"steps": session.job.steps, **values}
    if session.is_logged(step):
        session.journal.tell("step", step, **fields)
    else:
        session.journal.emit({"event": "step", "step": step, **fields})
    return values
