"""A Job: everything a run needs before step 1, made from an Experiment."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

from fft import models, tasks
from fft.adapters import check_keepable
from fft.artefact import load_artefact, save_artefact
from fft.contract import Watch
from fft.experiment import Experiment
from fft.fillin import pseudo_rows
from fft.heads import HeadNames, abstract_heads, fitting_note, head_names, make_heads
from fft.methods import Context, Given
from fft.models import Checkpoint
from fft.optim import make_optimizer, multipliers
from fft.paths import Params, count, flatten
from fft.streams import EVAL_BATCH, base_part, original_batches, training_batches
from fft.tasks import TaskData
from fft.train import PROBE, TrainState, finished_params, init_state, make_train_step
from fft.watched import check_budget, watched

PURPOSES = ("train", "init", "prepare", "heads", "repair")


class Trainable(NamedTuple):
    """The trainable tree of a method on a base: its shapes, each leaf's rate, the optimizer, the state at step 0."""

    theta: Params
    """jax.ShapeDtypeStructs"""
    multiplier: dict[str, float]
    tx: optax.GradientTransformation
    """without what the method puts around it"""
    init: Callable[[], TrainState]


class Job(NamedTuple):
    """What `run` steps through. The checkpoint's params are the base, every head the run uses included."""

    experiment: Experiment
    checkpoint: Checkpoint
    fresh_heads: tuple[str, ...]
    new: TaskData
    original: TaskData | None
    trainable: Trainable
    aux: Params
    step: Callable
    batches: dict[str, tasks.TrainBatches]
    """of every stream that a step reads"""
    watch: Watch | None
    """the contract, where there is one"""
    steps: int
    identity: dict
    """hashes of the base weights and of every split: what a resumed run must find again"""
    notes: tuple[str, ...]

    @property
    def base(self) -> Params:
        """θ*, the parameters before step 1."""
        return self.checkpoint.params

    def finished(self, state: TrainState) -> Params:
        """The plain parameters that a state stands for, after whatever the method does at the end."""
        return finished_params(self.experiment.method, self.base, state.theta, self.fresh_heads)

    @property
    def tasks(self) -> dict[str, TaskData]:
        """The tasks that are scored: "new", and "original" where there is one."""
        return {"new": self.new} | ({"original": self.original} if self.original else {})


class Accepted(NamedTuple):
    """An experiment whose checkpoint and data were read and found to fit; nothing has been written."""

    experiment: Experiment
    checkpoint: Checkpoint
    names: HeadNames
    new: TaskData
    original: TaskData | None
    unlabelled: TaskData | None
    identity: dict
    notes: tuple[str, ...]
    checked: tuple[str, ...]
    """what the method noted of the base and the original task"""

    @property
    def served(self) -> dict[str, tasks.Classify | tasks.Regress]:
        """The tasks by the name of their head."""
        return {data.task.name: data.task for data in (self.original, self.new) if data}

    @property
    def streams(self) -> dict[str, TaskData]:
        """The training rows that there are, by stream."""
        given = {"new": self.new, "original": self.original, "unlabelled": self.unlabelled}
        return {name: data for name, data in given.items() if data}


def accept(experiment: Experiment, directory: Path, say: Callable[[str], None] = lambda text: None) -> Accepted:
    """Read the checkpoint and the data and check them against each other and the method; writes nothing.

    What the method was checked against, it no longer needs once DIRECTORY holds what it prepared.

    Errors: InputError for whatever in the checkpoint, the data or the method does not fit, before anything trains.
    """
    experiment = resolved(experiment)
    say("reading the checkpoint and the data")
    checkpoint = models.load(experiment.model)
    names = head_names(experiment, checkpoint)
    original, new, crossing = _data(experiment, checkpoint, names)
    unlabelled, spared = _unlabelled(experiment, checkpoint, [data for data in (new, original) if data])
    identity = _identity(checkpoint, {"new": new, "original": original, "unlabelled": unlabelled})
    if experiment.retention.max_drop is not None:
        check_budget(experiment.retention.max_drop, original)
    fitted = names.original is not None and names.original not in checkpoint.heads
    checked = ()
    if not _is_prepared(directory):
        kept = kept_task(experiment, checkpoint, original)
        given = Given(checkpoint.params, identity["base_sha256"], original, kept, fitted, checkpoint.folder)
        checked = experiment.method.check(given)
    notes = (*crossing, *spared, *_data_notes(new, original))
    accepted = Accepted(experiment, checkpoint, names, new, original, unlabelled, identity, notes, checked)
    complete = abstract_heads(checkpoint, names.new, accepted.served)
    theta, _ = trained_leaves(experiment, complete)
    if not experiment.method.plain:
        check_keepable(experiment.method, complete, theta, max(*new.lengths, *(original.lengths if original else ())))
    return accepted


def assemble(
    accepted: Accepted, directory: Path, poll: Callable[[], None], say: Callable[[str], None] = lambda text: None
) -> Job:
    """The job of an accepted experiment; its slow parts (a fitted head, the statistics) are kept in DIRECTORY."""
    experiment, _, names, new, original, _, identity, notes, checked = accepted

    def batches_of(n: int, size: int) -> Iterator[dict]:
        return original_batches(original, n, experiment.seed, size)

    checkpoint = make_heads(
        accepted.checkpoint,
        names,
        accepted.served,
        lambda: batches_of(len(original.splits["train"].ids), EVAL_BATCH),
        _heads_key(experiment.seed, accepted),
        directory / "heads",
        poll,
        say,
    )
    steps = total_steps(experiment, len(new.splits["train"].ids))
    shares = {"new": 1.0, **experiment.method.streams}
    batches = training_batches(experiment.optim, shares, accepted.streams, steps, experiment.seed)
    kept = kept_task(experiment, accepted.checkpoint, original)
    multiplier = trained_leaves(experiment, checkpoint)[1]
    context = Context(
        checkpoint.model,
        checkpoint.params,
        names.fresh,
        kept,
        batches_of if original else None,
        {name: len(data.splits["train"].ids) for name, data in accepted.streams.items()},
        identity["base_sha256"],
        outputs=lambda stream, part: base_part(checkpoint, kept, part, batches[stream], steps, poll),
        pseudo_rows=lambda stream, *how: pseudo_rows(checkpoint, kept, batches[stream], steps, *how, poll),
        steps=steps,
        is_trained=lambda path: multiplier.get(path, 0.0) != 0.0,
        poll=poll,
    )
    aux, prepared_notes = _prepared(experiment, context, checked, directory, say)
    watch = None
    if experiment.retention.max_drop is not None:
        watch, batches[PROBE] = watched(experiment, checkpoint, original, steps, directory / "watched", poll)
    trainable = make_trainable(experiment, checkpoint, aux, steps)
    step = make_train_step(checkpoint.model, new.task, experiment.method, trainable.tx, multiplier, kept, watch)
    return Job(
        experiment,
        checkpoint,
        names.fresh,
        new,
        original,
        trainable,
        aux,
        step,
        batches,
        watch,
        steps,
        identity,
        (*notes, *fitting_note(directory / "heads"), *prepared_notes),
    )


def kept_task(
    experiment: Experiment, checkpoint: Checkpoint, original: TaskData | None
) -> tasks.Classify | tasks.Regress | None:
    """The original task: of the original data, or, without any, what the base's own head serves; None for neither."""
    if original:
        return original.task
    name = experiment.original_head or checkpoint.primary
    return tasks.task_of(name, checkpoint.heads[name]) if name in checkpoint.heads else None


def trained_leaves(experiment: Experiment, checkpoint: Checkpoint) -> tuple[Params, dict[str, float]]:
    """The shapes of the trainable tree and the rate multiplier of each leaf; the checkpoint may hold shapes alone."""
    theta = jax.eval_shape(experiment.method.init, checkpoint.params, jax.random.key(0))
    unused = tuple(name for name in checkpoint.params["heads"] if name != checkpoint.primary)
    return theta, multipliers(experiment.method, theta, checkpoint.model.depth, unused)


def make_trainable(experiment: Experiment, checkpoint: Checkpoint, aux: Params, steps: int) -> Trainable:
    """The trainable tree of the experiment's method on a checkpoint whose primary head is the new task's."""
    method, base = experiment.method, checkpoint.params
    theta, multiplier = trained_leaves(experiment, checkpoint)
    tx = make_optimizer(theta, multiplier, experiment.optim, steps)
    wrapped = method.transform(tx, aux)

    def init() -> TrainState:
        theta = method.init(base, key_for(experiment.seed, "init"))
        return init_state(theta, wrapped, key_for(experiment.seed, "train"))

    return Trainable(theta, multiplier, tx, init)


def resolved(experiment: Experiment) -> Experiment:
    """The experiment with defaults that depend on other settings filled in."""
    if experiment.optim.lr is not None:
        return experiment
    return dataclasses.replace(experiment, optim=dataclasses.replace(experiment.optim, lr=experiment.method.default_lr))


def key_for(seed: int, purpose: str) -> jax.Array:
    """The random key of one purpose of a run; purposes never share draws.

    Of the kind threefry, whose draws do not depend on how they are batched: the Fisher is the same for every chunk.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), PURPOSES.index(purpose))


def _heads_key(seed: int, accepted: Accepted) -> jax.Array:
    """The key of fresh heads. Heads that the base has may have started from the draws of this very seed, and after a
    short training still be close to them: the base's hash keeps a fresh head from being an old one.
    """
    key = key_for(seed, "heads")
    return jax.random.fold_in(key, int(accepted.identity["base_sha256"][:8], 16)) if accepted.checkpoint.heads else key


def total_steps(experiment: Experiment, rows: int) -> int:
    """Optimizer steps of the run: `steps`, or as many as `epochs` passes over `rows` rows need."""
    optim = experiment.optim
    if optim.steps is not None:
        return optim.steps
    return max(1, -(-int(optim.epochs * rows) // (optim.batch_size * optim.accumulate)))


def parameter_counts(job: Job) -> dict:
    """{'total', 'trained', 'percent', 'table': [{'path', 'shape', 'trained', 'multiplier'}]} over base and theta.

    A leaf the method adds (a LoRA matrix) counts towards the total; a base leaf that theta leaves out is frozen.
    """
    leaves = {**flatten(job.base), **flatten(job.trainable.theta)}
    table = [
        {"path": path, "shape": list(leaf.shape), "trained": m != 0.0, "multiplier": m}
        for path, leaf, m in ((path, leaf, job.trainable.multiplier.get(path, 0.0)) for path, leaf in leaves.items())
    ]
    trained = count({row["path"]: leaves[row["path"]] for row in table if row["trained"]})
    total = count(leaves)
    return {"total": total, "trained": trained, "percent": 100 * trained / total, "table": table}


def _data(experiment, checkpoint, names):
    """The original task (or None) and the new task, each without training rows the other is scored on, and notes."""
    original = None
    if experiment.original is not None:
        head = checkpoint.heads.get(names.original)
        original = tasks.prepare(experiment.original, checkpoint, names.original, head, experiment)
    shared = tasks.head_of(original.task) if names.new == names.original else None
    new = tasks.prepare(experiment.new, checkpoint, names.new, shared, experiment)
    if original is None:
        return None, new, ()
    new, from_new = tasks.drop_overlap(new, original)
    original, from_original = tasks.drop_overlap(original, new)
    return original, new, (*from_new, *from_original)


def _unlabelled(experiment, checkpoint, scored):
    """The texts without labels (or None), without those that a task is scored on, and notes."""
    if experiment.unlabelled is None:
        return None, ()
    found = tasks.prepare_unlabelled(experiment.unlabelled, checkpoint, experiment)
    notes = tuple(f"unlabelled: {text}" for text in found.warnings)
    for data in scored:
        found, dropped = tasks.drop_overlap(found, data)
        notes += dropped
    return found, notes


def _data_notes(new: TaskData, original: TaskData | None) -> Iterator[str]:
    for name, data in (("new", new), ("original", original)):
        yield from (f"{name}: {text}" for text in (data.warnings if data else ()))
    if original and new.task.name != original.task.name and new.task.labels and new.task.labels == original.task.labels:
        yield "both tasks have the same labels; --head shared would go on with the original's head"


def base_sha256(checkpoint: Checkpoint) -> str:
    """The hash of a checkpoint's parameters: equal for equal weights under equal paths."""
    digest = hashlib.sha256()
    for path, leaf in flatten(checkpoint.params).items():
        digest.update(path.encode())
        digest.update(np.asarray(leaf))
    return digest.hexdigest()


def _identity(checkpoint: Checkpoint, given: dict[str, TaskData | None]) -> dict:
    return {
        "base_sha256": base_sha256(checkpoint),
        "data": {name: data.identity for name, data in given.items() if data},
    }


def _is_prepared(directory: Path) -> bool:
    return (directory / "prepared" / "provenance.json").exists()


def _prepared(
    experiment: Experiment, context: Context, checked: tuple[str, ...], directory: Path, say: Callable[[str], None]
) -> tuple[Params, list[str]]:
    """The method's statistics and what was noted of them, computed once and then read from DIRECTORY."""
    folder = directory / "prepared"
    if not _is_prepared(directory):
        say(f"preparing {experiment.method.label}")
        notes = list(checked)
        aux = experiment.method.prepare(context._replace(note=notes.append), key_for(experiment.seed, "prepare"))
        provenance = {"method": experiment.method.label, "scalars": count(aux), "notes": notes}
        save_artefact(folder, aux, provenance)
    aux, provenance = load_artefact(folder)
    return aux, provenance["notes"]
