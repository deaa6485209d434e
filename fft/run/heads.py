"""Which heads a run uses, and those it has to make: the new task's own, fitted ones for the originals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.progress import doing
from fft.core.tree import Params, overlay
from fft.data.settings import Data
from fft.disk.artefact import load_artefact, save_artefact
from fft.evaluate.headfit import fit_head
from fft.models import Checkpoint, Head
from fft.models.heads import check_named, unused_head
from fft.tasks import Task


class HeadNames(NamedTuple):
    """`originals` are those of the original tasks, some of which may share one."""

    originals: tuple[str, ...]
    new: str
    shared: bool
    """whether that is a head that was there before, rather than one that starts from noise"""

    @property
    def fresh(self) -> tuple[str, ...]:
        """The heads that start from noise."""
        return () if self.shared else (self.new,)


def head_names(
    checkpoint: Checkpoint,
    source: str,
    originals: Sequence[tuple[Data, str | None]],
    new: str | None,
    shared: bool,
    asked: Sequence[str],
) -> HeadNames:
    """The heads that a run uses; InputError where the checkpoint lacks them or has them of another kind.

    `source` is what the user calls the checkpoint, `originals` are the data of each original task with the head that is
    asked for it, `new` the name asked for the new task's own head; `shared`: it goes on with one that is there, without
    original data the one `asked` for.
    """
    names: list[str] = []
    for data, wanted in originals:
        names.append(_original_head(data, wanted, checkpoint, names, source))
    if shared:
        return HeadNames(tuple(names), names[0] if names else _shared_head(checkpoint, source, asked), shared=True)
    return HeadNames(tuple(names), unused_head(new, "new", [*checkpoint.heads, *names]), shared=False)


def own_head(asked: Sequence[str], checkpoint: Checkpoint) -> str | None:
    """The head that stands for the original task where there are no data of it: the one asked for, or the checkpoint's
    classifier; None where it has none.
    """
    name = next(iter(asked), checkpoint.primary)
    if name is not None:
        check_named(name, checkpoint)
    return name


def _shared_head(checkpoint: Checkpoint, source: str, asked: Sequence[str]) -> str:
    name = own_head(asked, checkpoint)
    if name is None:
        raise InputError(
            f"--head shared goes on with the classifier of the base, and {source} has none: leave it out, "
            "and the new task gets a head of its own"
        )
    return name


def _original_head(data: Data, wanted: str | None, checkpoint: Checkpoint, taken: list[str], model: str) -> str:
    """The head of one original task: one that is there, or a name that neither the checkpoint nor `taken` has."""
    names = list(checkpoint.heads)
    if wanted == "fit":
        return unused_head(data.name, "original", [*names, *taken])
    if wanted is not None:
        check_named(wanted, checkpoint)
    name = wanted or checkpoint.primary
    if name is None:
        raise InputError(
            f"{model} has no head that could be scored on the original task. "
            "Give --original-head fit to train one on the frozen base first, or a checkpoint with a classifier"
        )
    _check_kind(data, name, checkpoint.heads[name].kind)
    return name


def _check_kind(data: Data, name: str, kind: str) -> None:
    """Refuse original data of another kind than the head that is there, with the ways out."""
    if data.kind != kind:
        raise InputError(
            f"{data.source}: the head {name!r} is for {kind}, the data are named as {data.kind}. Give --original.kind "
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
    """The checkpoint with every head the run uses, its primary the new task's; made ones are kept in FOLDER.

    `tasks` is {head name: Task}. A head the checkpoint lacks is fitted on the frozen base when it is an original
    task's (`original_batches(name)` are its training rows), fresh when it is the new one's.
    """
    if not (folder / "provenance.json").exists():
        fresh_key, fit_key = jax.random.split(key)
        made, fitted = {}, {}
        for name, task in tasks.items():
            if name in checkpoint.heads:
                continue
            if name in names.originals:
                say(f"fitting the head {name} for an original task on the frozen base")
                with doing(f"fitting the head {name}"):
                    made[name], fitted[name] = fit_head(checkpoint, task, original_batches(name), fit_key, poll)
            else:
                made[name] = checkpoint.model.init_head(fresh_key, task.outputs)
        heads = {name: {"kind": tasks[name].kind, "labels": list(tasks[name].labels)} for name in made}
        save_artefact(folder, made, {"heads": heads, "names": names._asdict(), "fitted": fitted})
    return load_heads(checkpoint, folder)


def abstract_heads(checkpoint: Checkpoint, primary: str, tasks: Mapping[str, Task]) -> Checkpoint:
    """The checkpoint as `make_heads` will give it back, the heads it lacks as shapes alone."""

    def shapes(task: Task) -> Params:
        return jax.eval_shape(lambda key: checkpoint.model.init_head(key, task.outputs), jax.random.key(0))

    made = {name: shapes(task) for name, task in tasks.items() if name not in checkpoint.heads}
    return checkpoint._replace(params=overlay(checkpoint.params, {"heads": made}), primary=primary)


def load_heads(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The checkpoint with the heads that `make_heads` kept in FOLDER."""
    tree, provenance = load_artefact(folder)
    added = {name: Head(head["kind"], tuple(head["labels"])) for name, head in provenance["heads"].items()}
    params = overlay(checkpoint.params, {"heads": tree}) if tree else checkpoint.params
    return checkpoint._replace(params=params, heads={**checkpoint.heads, **added}, primary=provenance["names"]["new"])


def fresh_heads(folder: Path) -> tuple[str, ...]:
    """The heads of a run that started from noise, from the FOLDER of `make_heads`."""
    return HeadNames(**load_artefact(folder)[1]["names"]).fresh


def fitting_note(folder: Path) -> tuple[str, ...]:
    """What a run says about the heads it fitted; empty when it fitted none."""
    return tuple(
        f"the original head {name} was fitted on the frozen base: {counted(how['rows'], 'training row')}, "
        f"{counted(how['steps'], 'step')}, "
        f"objective {how['loss_first']:.3f} -> {how['loss_last']:.3f}"
        for name, how in load_artefact(folder)[1]["fitted"].items()
    )
