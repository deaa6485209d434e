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
from fft.naming import ORIGINAL, numbered, original_names
from fft.optim import make_optimizer, multipliers
from fft.paths import Params, count, flatten
from fft.streams import base_part, original_batches, training_batches
from fft.tasks import TaskData
from fft.train import PROBE, TrainState, finished_params, init_state, make_train_step
from fft.watched import check_budget, watched

UNLABELLED = "unlabelled"
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
    data: dict[str, TaskData]
    """"new", "original", "original_2", …, "unlabelled", as far as there are such"""
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
        """The tasks that are scored: "new", and the original ones."""
        return {name: data for name, data in self.data.items() if name != UNLABELLED}

    @property
    def tolerances(self) -> dict[str, float]:
        """The accepted drop of every original task, in units of its score: the contract's where there is one."""
        names = original_names(self.data)
        accepted = self.experiment.retention.tolerance if self.watch is None else self.watch.margin
        return dict(zip(names, np.broadcast_to(accepted, len(names)).tolist(), strict=True))


class Accepted(NamedTuple):
    """An experiment whose checkpoint and data were read and found to fit; nothing has been written."""

    experiment: Experiment
    checkpoint: Checkpoint
    names: HeadNames
    data: dict[str, TaskData]
    """as of the Job"""
    identity: dict
    notes: tuple[str, ...]
    checked: tuple[str, ...]
    """what the method noted of the base and the original task"""

    @property
    def originals(self) -> list[TaskData]:
        """The original tasks, in their order."""
        return [self.data[name] for name in original_names(self.data)]

    @property
    def served(self) -> dict[str, tasks.Classify | tasks.Regress]:
        """The tasks by the name of their head."""
        return {data.task.name: data.task for data in (*self.originals, self.data["new"])}

    @property
    def streams(self) -> dict[str, TaskData]:
        """The training rows that there are, by stream: all original tasks are one."""
        rest = {name: self.data[name] for name in ("new", UNLABELLED) if name in self.data}
        return rest | ({ORIGINAL: tasks.together(self.originals)} if self.originals else {})


def accept(experiment: Experiment, directory: Path, say: Callable[[str], None] = lambda text: None) -> Accepted:
    """Read the checkpoint and the data and check them against each other and the method; writes nothing.

    What the method was checked against, it no longer needs once DIRECTORY holds what it prepared.

    Errors: InputError for whatever in the checkpoint, the data or the method does not fit, before anything trains.
    """
    experiment = resolved(experiment)
    say("reading the checkpoint and the data")
    checkpoint = models.load(experiment.model)
    names = head_names(experiment, checkpoint)
    data, crossing = _data(experiment, checkpoint, names)
    accepted = Accepted(
        experiment, checkpoint, names, data, _identity(checkpoint, data), (*crossing, *_data_notes(data)), ()
    )
    for budget, original in zip(experiment.budgets, accepted.originals, strict=False):  # without a contract none
        check_budget(budget, original)
    if not _is_prepared(directory):
        accepted = accepted._replace(checked=_checked(accepted))
    complete = abstract_heads(checkpoint, names.new, accepted.served)
    theta, _ = trained_leaves(experiment, complete)
    if not experiment.method.plain:
        longest = max(length for task in data.values() for length in task.lengths)
        check_keepable(experiment.method, complete, theta, longest)
    return accepted


def _checked(accepted: Accepted) -> tuple[str, ...]:
    """What the method notes of the base and the original tasks; refused where it does not fit them."""
    checkpoint, original = accepted.checkpoint, accepted.streams.get(ORIGINAL)
    fitted = not set(accepted.names.originals) <= set(checkpoint.heads)
    kept = kept_task(accepted.experiment, checkpoint, original)
    sha256 = accepted.identity["base_sha256"]
    return accepted.experiment.method.check(Given(checkpoint.params, sha256, original, kept, fitted, checkpoint.folder))


def assemble(
    accepted: Accepted, directory: Path, poll: Callable[[], None], say: Callable[[str], None] = lambda text: None
) -> Job:
    """The job of an accepted experiment; its slow parts (a fitted head, the statistics) are kept in DIRECTORY."""
    experiment, _, names, data, identity, notes, checked = accepted
    streams, new = accepted.streams, data["new"]
    original, by_head = streams.get(ORIGINAL), {data.task.name: data for data in accepted.originals}

    def batches_of(n: int, size: int) -> Iterator[dict]:
        return original_batches(original, n, experiment.seed, size)

    def all_batches(head: str) -> Iterator[dict]:
        return original_batches(by_head[head], len(by_head[head].splits["train"].ids), experiment.seed)

    checkpoint = make_heads(
        accepted.checkpoint,
        names,
        accepted.served,
        all_batches,
        _heads_key(experiment.seed, accepted),
        directory / "heads",
        poll,
        say,
    )
    steps = total_steps(experiment, len(new.splits["train"].ids))
    shares = {"new": 1.0, **experiment.method.streams}
    batches = training_batches(experiment.optim, shares, streams, steps, experiment.seed)
    kept = kept_task(experiment, accepted.checkpoint, original)
    multiplier = trained_leaves(experiment, checkpoint)[1]
    context = Context(
        checkpoint.model,
        checkpoint.params,
        names.fresh,
        kept,
        batches_of if original else None,
        {name: len(rows.splits["train"].ids) for name, rows in streams.items()},
        identity["base_sha256"],
        outputs=lambda stream, part: base_part(checkpoint, kept, part, batches[stream], steps, poll),
        pseudo_rows=lambda stream, *how: pseudo_rows(checkpoint, kept, batches[stream], steps, *how, poll),
        steps=steps,
        is_trained=lambda path: multiplier.get(path, 0.0) != 0.0,
        poll=poll,
    )
    aux, prepared_notes = _prepared(experiment, context, checked, directory, say)
    watch = None
    if experiment.budgets:
        watch, batches[PROBE] = watched(experiment, checkpoint, accepted.originals, steps, directory / "watched", poll)
    trainable = make_trainable(experiment, checkpoint, aux, steps)
    step = make_train_step(checkpoint.model, new.task, experiment.method, trainable.tx, multiplier, kept, watch)
    return Job(
        experiment,
        checkpoint,
        names.fresh,
        data,
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
    """The original task, of several their union; without data what the base's own head serves; None for neither."""
    if original:
        return original.task
    name = next(iter(experiment.original_head), checkpoint.primary)
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
        return init_state(theta, wrapped, key_for(experiment.seed, "train"), max(1, len(experiment.original)))

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
    """The data by the name of their task, each without training rows that another task is scored on, and notes."""
    data = {}
    for name, given, head in zip(
        numbered(ORIGINAL, len(experiment.original)), experiment.original, names.originals, strict=True
    ):
        data[name] = tasks.prepare(given, checkpoint, head, checkpoint.heads.get(head), experiment)
    shared = tasks.head_of(data[ORIGINAL].task) if names.new in names.originals else None
    data = {"new": tasks.prepare(experiment.new, checkpoint, names.new, shared, experiment)} | data
    scored, notes = dict(data), ()
    if experiment.unlabelled is not None:
        data[UNLABELLED] = tasks.prepare_unlabelled(experiment.unlabelled, checkpoint, experiment)
    for name in data:
        for other in (other for other in scored if other != name):
            data[name], dropped = tasks.drop_overlap(data[name], scored[other], (name, other))
            notes += dropped
    return data, notes


def _data_notes(data: dict[str, TaskData]) -> Iterator[str]:
    for name, task in data.items():
        yield from (f"{name}: {text}" for text in task.warnings)
    new, originals = data["new"].task, [data[name].task for name in original_names(data)]
    apart = new.name not in [task.name for task in originals]
    if new.labels and apart and new.labels in [task.labels for task in originals]:
        yield "both tasks have the same labels; --head shared would go on with the original's head"


def base_sha256(checkpoint: Checkpoint) -> str:
    """The hash of a checkpoint's parameters: equal for equal weights under equal paths."""
    digest = hashlib.sha256()
    for path, leaf in flatten(checkpoint.params).items():
        digest.update(path.encode())
        digest.update(np.asarray(leaf))
    return digest.hexdigest()


def _identity(checkpoint: Checkpoint, data: dict[str, TaskData]) -> dict:
    return {"base_sha256": base_sha256(checkpoint), "data": {name: task.identity for name, task in data.items()}}


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
