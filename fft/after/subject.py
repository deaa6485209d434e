"""What is diagnosed: two checkpoints of one shape on one task, and the Fisher information at the first of them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fft.after.pair import load_pair, refuse_other_labels, refuse_other_vocabulary
from fft.after.settings import DiagnoseSettings
from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.seeding import key_for
from fft.core.tree import Params, flatten
from fft.data import TaskData, prepare
from fft.data.streams import EVAL_BATCH, original_batches
from fft.evaluate.heldout import refuse_undefined
from fft.fisher.diagonal import FisherPass
from fft.fisher.information import load_fisher
from fft.fisher.storage import unpack
from fft.methods import Context
from fft.models import Checkpoint
from fft.models.heads import chosen_head, only_head
from fft.models.identity import base_sha256
from fft.tasks import Regress, Task

TOLD = ("estimator", "examples", "trace", "trace_error")


class Information(NamedTuple):
    """The diagonal Fisher information at the base, the task with its σ, and how it was come by."""

    diagonal: Params
    task: Task
    told: dict[str, Any]


class Subject(NamedTuple):
    """The two trees, alike, with the original's head alone; the base's model, the task's rows, and the Fisher
    information where an artefact of it was named."""

    checkpoint: Checkpoint
    base: Params
    tuned: Params
    data: TaskData
    known: Information | None
    told: dict[str, Any]
    """base, tuned, heads, data and notes of diagnose.json"""

    def batches(self, n: int, seed: int, size: int = EVAL_BATCH) -> Iterator[Batch]:
        """At most `n` training rows of the task."""
        return original_batches(self.data, n, seed, size)


def load_subject(settings: DiagnoseSettings) -> Subject:
    """Both checkpoints and the task, checked against each other."""
    pair = load_pair(settings.base, settings.tuned, settings.max_length)
    refuse_other_vocabulary(pair.base, pair.tuned, "diagnosed")
    old, now = pair.base.checkpoint, pair.tuned.checkpoint
    head = chosen_head(old, settings.head, settings.base, "to score the original task with")
    like = head if head in now.heads else None
    tuned_head = chosen_head(
        now, settings.tuned_head or settings.head or like, settings.tuned, "to score the original task with"
    )
    refuse_other_labels(pair, head, tuned_head)
    base, tuned = only_head(old.params, head, head), only_head(now.params, tuned_head, head)
    if all(map(np.array_equal, flatten(base).values(), flatten(tuned).values())):
        raise InputError(
            f"there is nothing to diagnose: the weights that the head {head!r} reads are the same in {settings.base} "
            f"and {settings.tuned}, bit for bit"
        )
    data = prepare(settings.task, old, head, old.heads[head], seed=settings.seed, max_length=pair.length.tokens)
    refuse_undefined({"original": data}, "test")
    told = {
        "base": {"folder": settings.base, "sha256": base_sha256(old)},
        "tuned": {"folder": settings.tuned, "sha256": base_sha256(now)},
        "heads": {"base": head, "tuned": tuned_head},
        "data": {"source": settings.original.source, "splits": data.identity},
        "notes": [*pair.notes, *data.notes],
    }
    return Subject(old, base, tuned, data, settings.fisher and _artefact(settings.fisher, old, data.task), told)


def _artefact(folder: Path, base: Checkpoint, task: Task) -> Information:
    """What `fft fisher` wrote; it must be of these weights and of this task."""
    stored, told = load_fisher(folder, base.params, base_sha256(base))
    if task.name not in told["tasks"]:
        raise InputError(
            f"the Fisher information in {folder} is of the task {', '.join(told['tasks'])}, the original task's head "
            f"is {task.name}"
        )
    if isinstance(task, Regress):
        task = replace(task, sigma=told["task"]["sigma"])
    return Information(unpack(stored), task, {"folder": folder} | {name: told[name] for name in TOLD})


def information_of(subject: Subject, settings: DiagnoseSettings, say: Callable[[str], None]) -> Information:
    """The Fisher information that is known, else of a pass over at most `fisher_rows` training rows."""
    if subject.known:
        return subject.known
    say(f"Fisher information of the base, on at most {settings.fisher_rows:,} training rows")
    context = Context(
        *(subject.checkpoint.model, subject.base, (), subject.data.task),
        lambda n, size: subject.batches(n, settings.seed, size),
        note=subject.told["notes"].append,
    )
    fisher, task = context.fisher(FisherPass(samples=settings.fisher_rows), key_for(settings.seed, "prepare"))
    return Information(fisher.diagonal, task, {"folder": None} | {name: getattr(fisher, name) for name in TOLD})
