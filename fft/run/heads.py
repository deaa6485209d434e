"""The heads that a run uses, and the creation of missing ones: fresh for the new task, fitted for original tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.naming import UNEMBED, counted
from fft.core.progress import doing
from fft.core.tree import Params, overlay
from fft.data.settings import Data, kind_of, predicts_tokens
from fft.disk.artefact import load_artefact, save_artefact
from fft.evaluate.headfit import fit_head
from fft.models import Checkpoint, Head
from fft.models.heads import check_named, unused_head
from fft.tasks import Task


class HeadNames(NamedTuple):
    """The names of the heads of the original tasks and of the new task."""

    originals: tuple[str, ...]
    """one for each original task; tasks may share a head"""
    new: str
    shared: bool
    """whether the new task's head is one that the base or an original task has, rather than a randomly initialised
    one"""

    @property
    def fresh(self) -> tuple[str, ...]:
        """The heads that are randomly initialised."""
        return () if self.shared else (self.new,)


def head_names(
    checkpoint: Checkpoint,
    source: str,
    originals: Sequence[tuple[Data, str | None]],
    new: Data,
    shared: bool,
    original_head: Sequence[str],
) -> HeadNames:
    """Return the names of the heads that a run uses.

    `source` is the user's name of the checkpoint; `originals` are the data of each original task with its requested
    head, if any; `new` are those of the new task, with the requested name of its own head. `shared`: the new task
    continues with the first original task's head or, without original data, with the requested `original_head`. Tasks
    that predict tokens use the language head.

    Raises: InputError where the checkpoint lacks a head or has it of another kind.
    """
    names: list[str] = []
    for data, requested in originals:
        names.append(_original_head(data, requested, checkpoint, names, source))
    if predicts_tokens([new]):
        if new.name is not None:
            raise InputError(
                f"--new.name {new.name}: a task that predicts tokens has no head of its own, it uses the model's "
                "language head: leave the name out"
            )
        return HeadNames(tuple(names), UNEMBED, shared=True)
    if shared:
        head = names[0] if names else _shared_head(checkpoint, source, original_head)
        return HeadNames(tuple(names), head, shared=True)
    return HeadNames(tuple(names), unused_head(new.name, "new", [*checkpoint.heads, *names]), shared=False)


def own_head(requested: Sequence[str], checkpoint: Checkpoint) -> str | None:
    """Return the head that stands for the original task when there are no original data: the requested one, else the
    checkpoint's classifier, else its language head if that was read, else None.

    Raises: InputError for a requested head that the checkpoint does not have.
    """
    name = next(iter(requested), checkpoint.primary)
    if name is not None:
        check_named(name, checkpoint)
    return UNEMBED if name is None and checkpoint.language else name


def _shared_head(checkpoint: Checkpoint, source: str, requested: Sequence[str]) -> str:
    name = own_head(requested, checkpoint)
    if name is None:
        raise InputError(
            f"--head shared goes on with the classifier of the base, and {source} has none: leave it out, "
            "and the new task gets a head of its own"
        )
    return name


def _original_head(data: Data, requested: str | None, checkpoint: Checkpoint, taken: list[str], model: str) -> str:
    """Return the head of one original task: an existing one or, to be fitted, a name that nothing else has."""
    if predicts_tokens([data]):
        if requested is not None:
            raise InputError(
                f"--original-head {requested}: {data.source} predicts tokens, for which the model's language head is "
                "used: leave it out"
            )
        return UNEMBED
    names = list(checkpoint.heads)
    if requested == "fit":
        return unused_head(data.name, "original", [*names, *taken])
    if requested is not None:
        check_named(requested, checkpoint)
    name = requested or checkpoint.primary
    if name is None:
        raise InputError(
            f"{model} has no head that could be scored on the original task. "
            "Give --original-head fit to train one on the frozen base first, or a checkpoint with a classifier"
        )
    _check_kind(data, name, checkpoint.heads[name].kind)
    return name


def _check_kind(data: Data, name: str, kind: str) -> None:
    """Refuse original data whose kind differs from that of the existing head."""
    stated = kind_of(data)
    if stated != kind:
        raise InputError(
            f"{data.source}: the head {name!r} is for {kind}, the data are named as {stated}. Give --original.kind "
            f"{kind}, or --original-head fit to train a head for these data on the frozen base first"
        )


def make_heads(
    checkpoint: Checkpoint,
    names: HeadNames,
    tasks: Mapping[str, Task],
    original_batches: Callable[[str], Iterable[Batch]],
    key: jax.Array,
    folder: Path,
    poll: Callable[[], None],
    say: Callable[[str], None],
) -> Checkpoint:
    """Return the checkpoint with every head the run uses, its primary the new task's; new heads are saved in FOLDER.

    `tasks` is {head name: Task}. A missing head is fitted on the frozen base if it is an original task's
    (`original_batches(name)` yields its training rows), and randomly initialised if it is the new task's.
    """
    if not (folder / "provenance.json").exists():
        fresh_key, fit_key = jax.random.split(key)
        added, fitted = {}, {}
        for name, task in tasks.items():
            if checkpoint.head(name) is not None:
                continue
            if name in names.originals:
                say(f"fitting the head {name} for an original task on the frozen base")
                with doing(f"fitting the head {name}"):
                    added[name], fitted[name] = fit_head(checkpoint, task, original_batches(name), fit_key, poll)
            else:
                added[name] = checkpoint.model.init_head(fresh_key, task.outputs)
        heads = {name: {"kind": tasks[name].kind, "labels": list(tasks[name].labels)} for name in added}
        save_artefact(folder, added, {"heads": heads, "names": names._asdict(), "fitted": fitted})
    return load_heads(checkpoint, folder)


def abstract_heads(checkpoint: Checkpoint, primary: str, tasks: Mapping[str, Task]) -> Checkpoint:
    """Return the checkpoint as `make_heads` will, with the missing heads as shapes only."""

    def shapes(task: Task) -> Params:
        return jax.eval_shape(lambda key: checkpoint.model.init_head(key, task.outputs), jax.random.key(0))

    missing = {name: shapes(task) for name, task in tasks.items() if checkpoint.head(name) is None}
    return checkpoint._replace(params=overlay(checkpoint.params, {"heads": missing}), primary=primary)


def load_heads(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Return the checkpoint with the heads that `make_heads` saved in FOLDER."""
    tree, provenance = load_artefact(folder)
    added = {name: Head(head["kind"], tuple(head["labels"])) for name, head in provenance["heads"].items()}
    params = overlay(checkpoint.params, {"heads": tree}) if tree else checkpoint.params
    return checkpoint._replace(params=params, heads={**checkpoint.heads, **added}, primary=provenance["names"]["new"])


def fresh_heads(folder: Path) -> tuple[str, ...]:
    """Return the names of a run's randomly initialised heads, from the FOLDER of `make_heads`."""
    return HeadNames(**load_artefact(folder)[1]["names"]).fresh


def fitting_note(folder: Path) -> tuple[str, ...]:
    """Return a note for each head that the run fitted, from the FOLDER of `make_heads`."""
    return tuple(
        f"the original head {name} was fitted on the frozen base: {counted(fit['rows'], 'training row')}, "
        f"{counted(fit['steps'], 'step')}, "
        f"objective {fit['loss_first']:.3f} -> {fit['loss_last']:.3f}"
        for name, fit in load_artefact(folder)[1]["fitted"].items()
    )
