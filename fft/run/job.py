"""A Job: everything a run needs before step 1, built from an accepted experiment."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fft.core.batch import Batch
from fft.core.naming import original_names
from fft.core.seeding import key_for
from fft.core.tree import Params
from fft.data import TaskData
from fft.data.batches import Batches
from fft.data.streams import original_batches, step_batch, training_batches
from fft.experiment import Experiment, Optim
from fft.models import Checkpoint
from fft.run.accepted import UNLABELLED, Accepted
from fft.run.heads import fitting_note, make_heads
from fft.run.packed import packed_streams, packing_notes, rows_of_an_epoch
from fft.run.prepared import prepare_once
from fft.run.teacher import context_of
from fft.run.watched import make_watch
from fft.training.dual import Watch
from fft.training.optim import schedule
from fft.training.state import TrainState
from fft.training.step import PROBE, TrainStep, finished_params, make_train_step
from fft.training.trainable import Trainable, make_trainable, trained_leaves


class Job(NamedTuple):
    """What a run trains and scores. The checkpoint's params are the base, with every head that the run uses."""

    experiment: Experiment
    checkpoint: Checkpoint
    fresh_heads: tuple[str, ...]
    data: dict[str, TaskData]
    """of "new", "original", "original_2", …, "unlabelled", where the run has them"""
    trainable: Trainable
    aux: Params
    """the method's prepared statistics"""
    step: TrainStep
    batches: dict[str, Batches]
    """of every stream that a step reads"""
    watch: Watch | None
    """the contract, if there is one"""
    steps: int
    identity: dict
    """hashes of the base weights and of every split; a resumed run must have the same"""
    notes: tuple[str, ...]

    @property
    def base(self) -> Params:
        """θ*, the parameters before step 1."""
        return self.checkpoint.params

    def batch(self, step: int) -> dict[str, Batch]:
        """Return what a step, counted from 0, reads: {stream: arrays [A, B, …]}; it depends on seed and step only."""
        return step_batch(self.batches, step, self.experiment.optim.accumulate)

    def finished(self, state: TrainState) -> Params:
        """Return the merged parameters of a state, after the method's `finish`."""
        return finished_params(self.experiment.method, self.base, state.result, self.fresh_heads)

    @property
    def tasks(self) -> dict[str, TaskData]:
        """The data of the tasks that are scored: "new" and the original tasks."""
        return {name: data for name, data in self.data.items() if name != UNLABELLED}

    @property
    def tolerances(self) -> dict[str, float]:
        """The accepted drop of every original task, in units of its score: the contract's if there is one."""
        names = original_names(self.data)
        accepted = self.experiment.retention.tolerance if self.watch is None else self.watch.margin
        return dict(zip(names, np.broadcast_to(accepted, len(names)).tolist(), strict=True))


def assemble(
    accepted: Accepted, directory: Path, poll: Callable[[], None], say: Callable[[str], None] = lambda text: None
) -> Job:
    """Build the job of an accepted experiment; fitted heads and statistics are saved in DIRECTORY and read from it."""
    experiment, new = accepted.experiment, accepted.data["new"]
    checkpoint = _with_heads(accepted, directory / "heads", poll, say)
    optim, method, seed = experiment.optim, experiment.method, experiment.seed
    capacities = packed_streams(accepted)
    steps = total_steps(optim, rows_of_an_epoch(new.splits["train"], seed, capacities.get("new")))
    shares = {"new": 1.0, **method.streams}
    batches = training_batches(optim.step_rows, shares, accepted.streams, steps, seed, capacities)
    multiplier = trained_leaves(method, checkpoint)[1]
    context = context_of(accepted, checkpoint, batches, steps, lambda path: multiplier.get(path, 0.0) != 0.0, poll)
    aux, prepared_notes = prepare_once(method, seed, context, accepted.method_notes, directory, say)
    watch = None
    if experiment.budgets:
        watch, batches[PROBE] = make_watch(
            experiment.budgets,
            checkpoint,
            accepted.originals,
            steps,
            seed,
            batches["new"].tokens,
            directory / "watched",
            poll,
        )
    trainable = make_trainable(method, optim, checkpoint, aux, steps, seed, watched=len(experiment.budgets))
    rate = schedule(optim, steps)
    step = make_train_step(checkpoint.model, new.task, method, trainable.tx, multiplier, context.original, watch, rate)
    return Job(
        experiment,
        checkpoint,
        accepted.names.fresh,
        accepted.data,
        trainable,
        aux,
        step,
        batches,
        watch,
        steps,
        accepted.identity,
        (*accepted.notes, *packing_notes(batches), *fitting_note(directory / "heads"), *prepared_notes),
    )


def _with_heads(accepted: Accepted, folder: Path, poll: Callable[[], None], say: Callable[[str], None]) -> Checkpoint:
    """Return the checkpoint with every head that the run uses; the ones it lacked are saved in FOLDER."""
    by_head = {data.task.name: data for data in accepted.originals}
    seed = accepted.experiment.seed

    def batches(head: str) -> Iterator[Batch]:
        return original_batches(by_head[head], len(by_head[head].splits["train"].ids), seed)

    key = _heads_key(seed, accepted)
    return make_heads(accepted.checkpoint, accepted.names, accepted.tasks_by_head, batches, key, folder, poll, say)


def _heads_key(seed: int, accepted: Accepted) -> jax.Array:
    """Return the random key of fresh heads."""
    key = key_for(seed, "heads")
    # A head of the base may have been initialised with this same seed and be close to that after a short training.
    # Folding in the base's hash makes a fresh head differ from it.
    return jax.random.fold_in(key, int(accepted.identity["base_sha256"][:8], 16)) if accepted.checkpoint.heads else key


def total_steps(optim: Optim, rows: int) -> int:
    """Return the optimizer steps of a run: `steps`, or as many as `epochs` passes over `rows` rows need."""
    if optim.steps is not None:
        return optim.steps
    return max(1, -(-int(optim.epochs * rows) // (optim.batch_size * optim.accumulate)))
