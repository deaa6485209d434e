"""Load an experiment's checkpoint and data and check that they fit together, before anything trains or is written."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from fft import models
from fft.adapters import check_writable
from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.core.naming import ORIGINAL, numbered, original_names
from fft.core.tree import Params
from fft.data import TaskData, drop_overlap, head_of, length_of, prepare, prepare_unlabelled
from fft.data.settings import predicts_tokens, with_kind
from fft.data.streams import held_out_sample
from fft.disk.surroundings import refuse_float64
from fft.experiment import Experiment
from fft.methods import Method
from fft.models import Checkpoint, Head
from fft.models.identity import base_sha256
from fft.run.accepted import UNLABELLED, Accepted
from fft.run.base import load_base
from fft.run.heads import HeadNames, abstract_heads, head_names
from fft.run.packed import packed_streams, refuse_packed
from fft.run.prepared import is_prepared
from fft.run.teacher import context_of
from fft.run.watched import check_budget
from fft.stats.metrics import METRICS
from fft.training.optimizers import OPTIMIZERS
from fft.training.trainable import trained_leaves


def accept(experiment: Experiment, directory: Path, say: Callable[[str], None] = lambda text: None) -> Accepted:
    """Load the checkpoint and the data and check them against each other and the method; nothing is written.

    The method's own check is skipped once DIRECTORY holds its prepared statistics: what it checks is not read again.

    Raises: InputError for whatever in the checkpoint, the data or the method does not fit.
    """
    refuse_float64()
    experiment = resolved(experiment)
    say("reading the checkpoint and the data")
    loaded = load_base(experiment)
    stored, lengthened = _at_length(experiment, loaded)
    checkpoint = models.computed(stored, experiment.computation)
    names = requested_heads(checkpoint, experiment)
    data, crossing = _data(experiment, checkpoint, names)
    accepted = Accepted(
        experiment,
        checkpoint,
        names,
        data,
        _identity(stored, data),
        (
            *checkpoint.notes,
            *lengthened,
            *crossing,
            *_data_notes(data, names, checkpoint.heads),
            *_probe_notes(data, experiment.retention.probe),
        ),
        (),
    )
    for budget, original in zip(experiment.budgets, accepted.originals, strict=False):  # without a contract none
        check_budget(budget, original)
    packed = packed_streams(accepted)
    if not is_prepared(directory):
        accepted = accepted._replace(method_notes=_method_notes(accepted))
    complete = abstract_heads(checkpoint, names.new, accepted.tasks_by_head)
    theta, _ = trained_leaves(experiment.method, complete)
    if packed:
        refuse_packed(experiment.method, complete, theta)
    if not experiment.method.tree.plain:
        _refuse_idle(experiment.method, names)
        longest = max(length for task in data.values() for length in task.lengths)
        _check_adapter(experiment.method, complete, theta, longest)
    return accepted


def requested_heads(checkpoint: Checkpoint, experiment: Experiment) -> HeadNames:
    """Return the names of the heads that the experiment uses.

    Raises: as `head_names`.
    """
    return head_names(
        checkpoint,
        experiment.model,
        list(zip(experiment.original, experiment.original_heads, strict=True)),
        experiment.new,
        experiment.head == "shared",
        experiment.original_head,
    )


def _at_length(experiment: Experiment, loaded: Checkpoint) -> tuple[Checkpoint, tuple[str, ...]]:
    """Return the checkpoint with the run's max_length, and a note where that is a default that differs from the length
    the checkpoint was trained at.
    """
    if predicts_tokens([experiment.new]):  # no limit of the model that is written
        return loaded, ()
    length = length_of(experiment.max_length, loaded.model.config)
    checkpoint = loaded._replace(max_length=length)
    if experiment.max_length is not None or loaded.max_length in (None, length):
        return checkpoint, ()
    return checkpoint, (
        f"texts are cut to {length} tokens, but were cut to {loaded.max_length} in the training of {experiment.model}: "
        f"to do the same here, give --max-length {loaded.max_length}",
    )


def _method_notes(accepted: Accepted) -> tuple[str, ...]:
    """Run the method's own check of the base and the original tasks, and return its notes."""
    notes: list[str] = []
    accepted.experiment.method.check(context_of(accepted, accepted.checkpoint)._replace(note=notes.append))
    return tuple(notes)


def resolved(experiment: Experiment) -> Experiment:
    """Return the experiment with the kinds of its data, and the default learning rate of its method and optimizer.

    Raises: InputError for data that do not exist.
    """
    originals = tuple(map(with_kind, experiment.original))
    experiment = dataclasses.replace(experiment, new=with_kind(experiment.new), original=originals)
    if experiment.optim.lr is not None:
        return experiment
    lr = experiment.method.lr * OPTIMIZERS[experiment.optim.optimizer].lr_factor
    return dataclasses.replace(experiment, optim=dataclasses.replace(experiment.optim, lr=lr))


def _data(
    experiment: Experiment, checkpoint: Checkpoint, names: HeadNames
) -> tuple[dict[str, TaskData], tuple[str, ...]]:
    """Return the data by task name, each without training rows that another task is scored on, and notes."""
    data, options = {}, {"seed": experiment.seed, "max_length": experiment.max_length}
    for name, spec, head in zip(
        numbered(ORIGINAL, len(experiment.original)), experiment.original, names.originals, strict=True
    ):
        data[name] = prepare(spec, checkpoint, head, checkpoint.head(head), **options)
    head = checkpoint.head(names.new)
    if head is None and names.shared and data:
        head = head_of(data[ORIGINAL].task)
    data = {"new": prepare(experiment.new, checkpoint, names.new, head, **options)} | data
    scored, notes = dict(data), ()
    if experiment.unlabelled is not None:
        language = predicts_tokens([*experiment.original, experiment.new][:1])
        data[UNLABELLED] = prepare_unlabelled(experiment.unlabelled, checkpoint, language=language, **options)
    for name in data:
        for other in (other for other in scored if other != name):
            data[name], dropped = drop_overlap(data[name], scored[other], (name, other))
            notes += dropped
    return data, notes


def _data_notes(data: dict[str, TaskData], names: HeadNames, heads: dict[str, Head]) -> Iterator[str]:
    yield from data["new"].tokenizer_notes
    for name, task in data.items():
        yield from (f"{name}: {text}" for text in task.warnings)
    known = [data[name].task for name in original_names(data)] or list(heads.values())
    labels = data["new"].task.labels
    if labels and not names.shared and labels in [tuple(task.labels) for task in known]:
        yield ("both tasks have the same labels; --head shared would go on with the original's head")


def _probe_notes(data: dict[str, TaskData], most: int) -> Iterator[str]:
    """Yield a note for each task whose score is undefined on the probe but not on all validation rows."""
    for name, task in data.items():
        if name == UNLABELLED:
            continue
        metric, rows = METRICS[task.task.metric], task.splits["validation"]
        reason = metric.undefined(held_out_sample(rows, most).labels)
        if reason and not metric.undefined(rows.labels):
            yield f"{name}: on the probe {reason}; give a larger --probe to see it while training"


def _refuse_idle(method: Method, names: HeadNames) -> None:
    """Refuse penalties on base parameters beside an adapter with a new head, which changes none of them."""
    idle = [member.name for member in method.members if member.parts().only_pulls]
    if idle and names.fresh:
        raise InputError(
            f"{' and '.join(idle)} would have no effect: {method.owner.name} with a new head changes no parameter of "
            "the base that could be held. Leave it out, or go on with the base's head: --head shared"
        )


def _check_adapter(method: Method, base: Checkpoint, theta: Params, tokens: int) -> None:
    """Refuse a method whose result could not be saved as an adapter, and rows of `tokens` that the model cannot take.

    The base and `theta` may be shapes alone; nothing is computed.
    """
    check_writable(method.owner, base.model.family)
    if changing := [member.name for member in method.members if member.parts().finish is not None]:
        raise InputError(
            f"{', '.join(changing)} changes merged weights at the end of a run, and {method.owner.name} has none"
        )
    row = Inputs(*(np.zeros((1, tokens), np.int32) for _ in Inputs._fields))
    jax.eval_shape(lambda *trees: base.model.states(method.merge(*trees[:2]), trees[2]), base.params, theta, row)


def _identity(checkpoint: Checkpoint, data: dict[str, TaskData]) -> dict:
    return {"base_sha256": base_sha256(checkpoint), "data": {name: task.identity for name, task in data.items()}}
