"""The choice of a run's model after training: the kept step, or under a contract a point towards it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fft.core.errors import InputError
from fft.core.settings import alone
from fft.core.tree import Params
from fft.disk.files import plain
from fft.report.contract import contract_sentence
from fft.run import selection
from fft.run.job import Job
from fft.run.loop import Trained
from fft.run.session import Session
from fft.stats.records import ContractRecord
from fft.training.dual import Watch
from fft.training.state import TrainState

KEPT_BASE = "no scored step beat the base: the base is kept, step 0; --keep latest would keep the last step"


class Kept(NamedTuple):
    """The step that becomes the run's model (0: the base), and its parameters."""

    step: int
    params: Params
    """the merged parameters of the step or, under a contract, of a point between base and step; at step 0 the base's"""
    theta: Params
    """the trained tree of the step"""
    left: Params
    """arrays for later runs (Parts.leave)"""
    contract: ContractRecord | None


def keep(session: Session, trained: Trained) -> Kept:
    """Choose between the best and the last step and, under a contract, points between the base and the last step."""
    watch = session.job.watch
    kept = _by_score(session, trained) if watch is None else _by_contract(session, trained, watch)
    del session.state  # frees three times the model's size
    return kept


def _by_score(session: Session, trained: Trained) -> Kept:
    """Return the best or the last step, as Retention.keep says."""
    job, step = session.job, trained.steps
    if job.experiment.retention.keep == "best" and trained.best_step != step:
        step, session.state = _restore_best(session, trained.best_step)
    if step == 0:
        session.journal.say(KEPT_BASE)
    return Kept(step, job.finished(session.state) if step else job.base, *_trees(job, session.state), None)


def _by_contract(session: Session, trained: Trained, watch: Watch) -> Kept:
    """Return the point that `selection.choose` selects."""
    job, scorer, journal = session.job, session.scorer, session.journal
    trees = {trained.steps: _trees(job, session.state)}

    def restored() -> Params:
        best = _restore_best(session, trained.best_step)[1]
        trees[trained.best_step] = _trees(job, best)
        return job.finished(best)

    candidates = {trained.best_step: restored} if trained.best_step else {}
    candidates[trained.steps] = lambda: job.finished(session.state)
    alphas = selection.ALPHAS if job.experiment.method.tree.plain else ()
    signs = {name: scorer.metric(name).sign for name in job.tasks}
    with journal.clock("scoring", "choosing what is kept on validation rows"):
        start = dict(zip(job.tolerances, watch.scores, strict=True))
        start |= {} if job.fresh_heads else scorer.judge(job.base, ["new"])
        chosen = selection.choose(
            job.base, job.fresh_heads, start, candidates, scorer.judge, signs, job.tolerances, alphas
        )
    strength = float(jnp.exp(session.state.dual.log_strength))
    max_drop = alone(job.experiment.retention.drops)
    contract = selection.contract_record(chosen, max_drop, job.tolerances, strength)
    metrics = {name: job.tasks[name].task.metric for name in job.tolerances}
    journal.say(contract_sentence(plain(contract), metrics))
    step = chosen.point.step
    return Kept(step, chosen.params, *(trees[step] if step else _trees(job, job.trainable.init())), contract)


def _trees(job: Job, state: TrainState) -> tuple[Params, Params]:
    """Return (theta, left) of a state."""
    return state.result, job.experiment.method.leave(state.opt_state)


def _restore_best(session: Session, step: int) -> tuple[int, TrainState]:
    """Load the state of the best step, or of the latest good one if the best is damaged on disk."""
    like = jax.eval_shape(session.job.trainable.init)
    try:
        return step, session.checkpoints.restore(like, step).tree
    except InputError as error:
        session.journal.say(f"warning: the best step cannot be kept, the latest good one is: {error}")
    saved = session.checkpoints.restore(like)
    return saved.step, saved.tree
