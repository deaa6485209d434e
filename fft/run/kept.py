"""What a finished training keeps: the point that becomes the run's model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fft.core.errors import InputError
from fft.core.settings import alone
from fft.core.tree import Params
from fft.disk.checkpoint import Checkpoints
from fft.disk.journal import Journal
from fft.run import selection
from fft.run.job import Job
from fft.run.outcome import KEPT_BASE
from fft.run.scoring import Scorer
from fft.training.step import TrainState


class Kept(NamedTuple):
    """The step that is kept, 0 for the base, and what stands there."""

    step: int
    params: Params
    """the plain parameters at the step or, under a contract, on the way to it; at step 0 the base's own"""
    theta: Params
    """the trained tree of the step"""
    left: Params
    """what later runs read of this one (Method.leave)"""
    contract: dict | None
    """what run.json says of the contract"""


def keep(
    job: Job, state: TrainState, best_step: int, checkpoints: Checkpoints, scorer: Scorer, journal: Journal
) -> Kept:
    """Choose between the best step, the last one, whose state is `state`, and under a contract points on the way."""
    if job.watch is None:
        return _by_score(job, state, best_step, checkpoints, journal)
    return _by_contract(job, state, best_step, checkpoints, scorer, journal)


def _by_score(job: Job, state: TrainState, best_step: int, checkpoints: Checkpoints, journal: Journal) -> Kept:
    """The best or the last step, as Retention.keep says."""
    kept_step = int(state.step)
    if job.experiment.retention.keep == "best" and best_step != kept_step:
        del state  # the restored step takes its place in memory
        kept_step, state = _restore_best(best_step, jax.eval_shape(job.trainable.init), checkpoints, journal)
    if kept_step == 0:
        journal.say(KEPT_BASE)
    return Kept(kept_step, job.finished(state) if kept_step else job.base, *_trees(job, state), None)


def _by_contract(
    job: Job, state: TrainState, best_step: int, checkpoints: Checkpoints, scorer: Scorer, journal: Journal
) -> Kept:
    """The point that `selection.choose` finds."""
    trees = {int(state.step): _trees(job, state)}

    def restored() -> Params:
        best = _restore_best(best_step, jax.eval_shape(job.trainable.init), checkpoints, journal)[1]
        trees[best_step] = _trees(job, best)
        return job.finished(best)

    trained = {best_step: restored} if best_step else {}
    trained[int(state.step)] = lambda: job.finished(state)
    way = selection.WAY if job.experiment.method.plain else ()
    signs = {name: scorer.metric(name).sign for name in job.tasks}
    with journal.clock("scoring", "choosing what is kept on validation rows"):
        start = dict(zip(job.tolerances, job.watch.scores, strict=True))
        start |= {} if job.fresh_heads else scorer.judge(job.base, ["new"])
        chosen = selection.choose(job.base, job.fresh_heads, start, trained, scorer.judge, signs, job.tolerances, way)
    strength = float(jnp.exp(state.dual.log_strength))
    written = alone(job.experiment.retention.max_drop)
    contract = selection.told(chosen, written, job.tolerances, strength)
    journal.say(selection.sentence(contract))
    step = chosen.point.step
    return Kept(step, chosen.params, *(trees[step] if step else _trees(job, job.trainable.init())), contract)


def _trees(job: Job, state: TrainState) -> tuple[Params, Params]:
    """(theta, left) of a state."""
    return state.result, job.experiment.method.leave(state.opt_state)


def _restore_best(step: int, like: TrainState, checkpoints: Checkpoints, journal: Journal) -> tuple[int, TrainState]:
    """The saved state of the best step, or of the latest good one where the best is damaged on disk."""
    try:
        return step, checkpoints.restore(like, step).tree
    except InputError as error:
        journal.say(f"warning: the best step cannot be kept, the latest good one is: {error}")
    found = checkpoints.restore(like)
    return found.step, found.tree
