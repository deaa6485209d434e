"""Two checkpoints that can be merged: of one shape and vocabulary, with heads that agree; and their tasks."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fft.after.pair import load_pair, refuse_other_vocabulary
from fft.after.settings import RepairSettings
from fft.core.errors import InputError
from fft.core.tree import Params
from fft.data import TaskData, prepare_held_out
from fft.experiment import Data
from fft.fisher.information import load_fisher
from fft.fisher.storage import unpack
from fft.models import Checkpoint, Head
from fft.models.files.heads import alike
from fft.models.heads import chosen_head, unused_head
from fft.models.identity import base_sha256


class Sides(NamedTuple):
    """The two models with heads of one naming, and the held-out rows of their tasks.

    `tuned` is the checkpoint that a merged model takes the place in: its heads are those of both, its primary one is
    the new task's. `base` and `tuned.params` are what is merged; `data` has the tasks "original" and "new".
    """

    base: Params
    tuned: Checkpoint
    data: dict[str, TaskData]
    fishers: tuple[Params, Params | None] | None
    told: dict[str, Any]
    """base, tuned, heads, data, fisher and notes of repair.json"""


def load_sides(settings: RepairSettings) -> Sides:
    """Load and check everything. A head of the same name and labels in both is one head, and merged like any leaf. A
    classifier of TUNED that has the name of one of BASE and other labels gets a name of its own.

    Raises: InputError for other shapes or vocabularies, heads that are not there, data that do not fit, and Fisher
    information of other weights.
    """
    base, tuned, tasks = settings.base, settings.tuned, settings.tasks
    pair = load_pair(base, tuned, settings.max_length)
    old, now = pair.base.checkpoint, pair.tuned.checkpoint
    refuse_other_vocabulary(pair.base, pair.tuned, "merged")
    kept = chosen_head(old, settings.original_head, base, "to score the original task with")
    learned = chosen_head(now, settings.new_head, tuned, "to score the new task with")
    known, known_new = (
        folder and _fisher(folder, one) for folder, one in ((settings.fisher, old), (settings.new_fisher, now))
    )
    name = learned
    if learned in old.heads and not alike(old.heads[learned], now.heads[learned]):
        name = unused_head(None, "new", [*old.heads, *now.heads])
        known_new = known_new and _renamed(known_new, learned, name)
    renamed = {name if head == learned else head: kind for head, kind in now.heads.items()}
    _refuse_other_labels(base, old.heads, tuned, renamed)
    merged = now._replace(
        params=_renamed(now.params, learned, name),
        heads={**old.heads, **renamed},
        primary=name,
        max_length=pair.length.tokens,
    )
    data = {
        role: _read(base, old, tuned, merged, tasks[role], head) for role, head in (("original", kept), ("new", name))
    }
    told = {
        "base": {"folder": base, "sha256": base_sha256(old)},
        "tuned": {"folder": tuned, "sha256": base_sha256(now)},
        "heads": {"original": kept, "new": name, "shared": name in old.heads},
        "fisher": {"base": settings.fisher, "tuned": settings.new_fisher},
        "data": {role: {"source": task.source, "splits": data[role].identity} for role, task in tasks.items()},
        "notes": [
            *pair.notes,
            *data["new"].tokenizer_notes,
            *(f"{role}: {warning}" for role, found in data.items() for warning in found.warnings),
        ],
    }
    return Sides(old.params, merged, data, (known, known_new) if known else None, told)


def _fisher(folder: Path, checkpoint: Checkpoint) -> Params:
    return unpack(load_fisher(folder, checkpoint.params, base_sha256(checkpoint))[0])


def _read(base: str, old: Checkpoint, tuned: str, merged: Checkpoint, source: Data, head: str) -> TaskData:
    """The held-out rows of a task, which both tokenizers must read alike, with the notes of both."""
    found, other = (
        prepare_held_out(source, merged._replace(folder=folder), head, merged.heads[head], merged.max_length)
        for folder in (merged.folder, old.folder)
    )
    for role, rows in found.splits.items():
        for number, ids, others in zip(rows.numbers, rows.ids, other.splits[role].ids, strict=True):
            if not np.array_equal(ids, others):
                raise InputError(
                    f"{source.source}, row {number}: {base} and {tuned} read it as different tokens, so their "
                    "tokenizers differ; only checkpoints with the same tokenizer can be merged"
                )
    return found._replace(tokenizer_notes=(*found.tokenizer_notes, *other.tokenizer_notes))


def _refuse_other_labels(base: str, heads: dict[str, Head], tuned: str, others: dict[str, Head]) -> None:
    for name in heads.keys() & others.keys():
        if not alike(heads[name], others[name]):
            raise InputError(
                f"the head {name!r} is for {_told(heads[name])} in {base} and for {_told(others[name])} in {tuned}; "
                "two heads of one name are merged, so they must agree. Name the new task's with --new-head"
            )


def _told(head: Head) -> str:
    return f"{head.kind} into {', '.join(head.labels)}" if head.labels else head.kind


def _renamed(tree: Params, old: str, new: str) -> Params:
    """The tree with one of its heads under another name."""
    return {**tree, "heads": {new if name == old else name: head for name, head in tree.get("heads", {}).items()}}
