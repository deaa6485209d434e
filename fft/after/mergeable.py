"""Load two checkpoints that can be merged, of one shape and vocabulary and with matching heads, and their tasks."""

from pathlib import Path
from typing import Any, NamedTuple

from fft.after.pair import load_pair, refuse_other_vocabulary
from fft.after.settings import RepairSettings
from fft.after.tokens import other_tokenizer, refuse_other_tokens
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.data import TaskData, length_of, prepare_held_out
from fft.data.settings import predicts_tokens
from fft.experiment import Data
from fft.fisher.information import load_fisher
from fft.fisher.storage import unpack
from fft.models import Checkpoint, Head
from fft.models.files.heads import alike
from fft.models.heads import chosen_head, unused_head
from fft.models.identity import base_sha256


class Sides(NamedTuple):
    """The two models with common head names, and the held-out rows of their tasks.

    `base` and `tuned.params` are to be merged. `tuned` is also the template of the merged checkpoint: it has the heads
    of both, and its primary head is the new task's. `data` has the tasks "original" and "new".
    """

    base: Params
    tuned: Checkpoint
    data: dict[str, TaskData]
    fishers: tuple[Params, Params | None] | None
    record: dict[str, Any]
    """base, tuned, heads, data, fisher and notes of repair.json"""


def load_sides(settings: RepairSettings) -> Sides:
    """Load and check both checkpoints, their tasks and the Fisher information.

    A head with the same name and labels in both is one head, and merged like any other leaf. If the new task's head in
    TUNED has the name of a head of BASE but other labels, it gets a new name.

    Raises: InputError for different shapes or vocabularies, missing heads, data that do not fit, and Fisher information
    of other weights.
    """
    base, tuned, tasks = settings.base, settings.tuned, settings.tasks
    pair = load_pair(base, tuned, settings.max_length, predicts_tokens(list(tasks.values())))
    old, now = pair.base.checkpoint, pair.tuned.checkpoint
    refuse_other_vocabulary(pair.base, pair.tuned, "merged")
    original_head = chosen_head(
        old, settings.original_head, base, "to score the original task with", predicts_tokens([tasks["original"]])
    )
    new_head = chosen_head(now, settings.new_head, tuned, "to score the new task with", predicts_tokens([tasks["new"]]))
    base_fisher, tuned_fisher = (
        folder and _fisher(folder, one) for folder, one in ((settings.fisher, old), (settings.new_fisher, now))
    )
    name = new_head
    if new_head in old.heads and not alike(old.heads[new_head], now.heads[new_head]):
        name = unused_head(None, "new", [*old.heads, *now.heads])
        tuned_fisher = tuned_fisher and _renamed(tuned_fisher, new_head, name)
    renamed = {name if head == new_head else head: kind for head, kind in now.heads.items()}
    _refuse_other_labels(base, old.heads, tuned, renamed)
    merged = now._replace(
        params=_renamed(now.params, new_head, name),
        heads={**old.heads, **renamed},
        primary=name,
        max_length=None if pair.language else length_of(pair.length.tokens, now.model.config),
    )
    data = {
        role: _read(base, old, tuned, merged, tasks[role], head, pair.length.tokens)
        for role, head in (("original", original_head), ("new", name))
    }
    record = {
        "base": {"folder": base, "sha256": base_sha256(old)},
        "tuned": {"folder": tuned, "sha256": base_sha256(now)},
        "heads": {"original": original_head, "new": name, "shared": old.head(name) is not None},
        "fisher": {"base": settings.fisher, "tuned": settings.new_fisher},
        "data": {role: {"source": task.source, "splits": data[role].identity} for role, task in tasks.items()},
        "notes": [
            *pair.notes,
            *data["new"].tokenizer_notes,
            *(f"{role}: {warning}" for role, task in data.items() for warning in task.warnings),
        ],
    }
    return Sides(old.params, merged, data, (base_fisher, tuned_fisher) if base_fisher else None, record)


def _fisher(folder: Path, checkpoint: Checkpoint) -> Params:
    return unpack(load_fisher(folder, checkpoint.params, base_sha256(checkpoint))[0])


def _read(
    base: str, old: Checkpoint, tuned: str, merged: Checkpoint, source: Data, head: str, length: int | None
) -> TaskData:
    """Load the held-out rows of a task, with the notes of both tokenizers.

    Raises: InputError for a row that the two tokenizers read differently.
    """
    data, other = (
        prepare_held_out(source, merged._replace(folder=folder), head, merged.head(head), length)
        for folder in (merged.folder, old.folder)
    )
    for role, rows in data.splits.items():
        refuse_other_tokens(source.source, (base, tuned), rows, other.splits[role], other_tokenizer("merged"))
    return data._replace(tokenizer_notes=(*data.tokenizer_notes, *other.tokenizer_notes))


def _refuse_other_labels(base: str, heads: dict[str, Head], tuned: str, others: dict[str, Head]) -> None:
    for name in heads.keys() & others.keys():
        if not alike(heads[name], others[name]):
            raise InputError(
                f"the head {name!r} is for {_described(heads[name])} in {base} and for {_described(others[name])} in "
                f"{tuned}; two heads of one name are merged, so they must agree. Name the new task's with --new-head"
            )


def _described(head: Head) -> str:
    return f"{head.kind} into {', '.join(head.labels)}" if head.labels else head.kind


def _renamed(tree: Params, old: str, new: str) -> Params:
    """Return the tree with the head `old` renamed to `new`."""
    if old == new:
        return tree
    return {**tree, "heads": {new if name == old else name: head for name, head in tree.get("heads", {}).items()}}
