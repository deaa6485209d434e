"""The inputs of a diagnosis: two checkpoints of one shape, one task, and the Fisher information at the base."""

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
from fft.data.settings import predicts_tokens
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

FISHER_FIELDS = ("estimator", "examples", "trace", "trace_error")


class Information(NamedTuple):
    """The diagonal Fisher information at the base, and the task with its σ."""

    diagonal: Params
    task: Task
    record: dict[str, Any]
    """fisher of diagnose.json"""


class Subject(NamedTuple):
    """Two checkpoints and a task to diagnose. `base` and `tuned` have the same leaves, with only the task's head."""

    checkpoint: Checkpoint
    """the base's checkpoint"""
    base: Params
    tuned: Params
    data: TaskData
    known: Information | None
    """the Fisher information, if --fisher names it"""
    record: dict[str, Any]
    """base, tuned, heads, data and notes of diagnose.json"""

    def batches(self, n: int, seed: int, size: int = EVAL_BATCH) -> Iterator[Batch]:
        """Yield batches of at most `n` training rows of the task in all."""
        return original_batches(self.data, n, seed, size)


def load_subject(settings: DiagnoseSettings) -> Subject:
    """Load both checkpoints and the task, and check them against each other.

    Raises: InputError for checkpoints, heads, data or Fisher information that do not fit, and for checkpoints with the
    same weights; UndecidableError for test rows on which the score is not defined.
    """
    language = predicts_tokens([settings.task])
    pair = load_pair(settings.base, settings.tuned, settings.max_length, language)
    refuse_other_vocabulary(pair.base, pair.tuned, "diagnosed")
    old, now = pair.base.checkpoint, pair.tuned.checkpoint
    head = chosen_head(old, settings.head, settings.base, "to score the original task with", language)
    same_name = head if now.head(head) else None
    tuned_head = chosen_head(
        now,
        settings.tuned_head or settings.head or same_name,
        settings.tuned,
        "to score the original task with",
        language,
    )
    refuse_other_labels(pair, head, tuned_head)
    base, tuned = only_head(old.params, head, head), only_head(now.params, tuned_head, head)
    if all(map(np.array_equal, flatten(base).values(), flatten(tuned).values())):
        raise InputError(
            f"there is nothing to diagnose: the weights that the head {head!r} reads are the same in {settings.base} "
            f"and {settings.tuned}, bit for bit. Give the checkpoint that was tuned"
        )
    data = prepare(settings.task, old, head, old.head(head), seed=settings.seed, max_length=pair.length.tokens)
    refuse_undefined({"original": data}, "test")
    record = {
        "base": {"folder": settings.base, "sha256": base_sha256(old)},
        "tuned": {"folder": settings.tuned, "sha256": base_sha256(now)},
        "heads": {"base": head, "tuned": tuned_head},
        "data": {"source": settings.original.source, "splits": data.identity},
        "notes": [*pair.notes, *data.notes],
    }
    return Subject(old, base, tuned, data, settings.fisher and _load_fisher(settings.fisher, old, data.task), record)


def _load_fisher(folder: Path, base: Checkpoint, task: Task) -> Information:
    """Load the output of `fft fisher`.

    Raises: InputError if it is of other weights or of another task.
    """
    stored, provenance = load_fisher(folder, base.params, base_sha256(base))
    if task.name not in provenance["tasks"]:
        raise InputError(
            f"the Fisher information in {folder} is of the task {', '.join(provenance['tasks'])}, the original task's "
            f"head is {task.name}: give a folder of that task, or leave --fisher out"
        )
    if isinstance(task, Regress):
        task = replace(task, sigma=provenance["task"]["sigma"])
    record = {"folder": folder} | {name: provenance[name] for name in FISHER_FIELDS}
    return Information(unpack(stored), task, record)


def information_of(subject: Subject, settings: DiagnoseSettings, say: Callable[[str], None]) -> Information:
    """Return the loaded Fisher information, else measure it on at most `fisher_rows` training rows."""
    if subject.known:
        return subject.known
    say(f"Fisher information of the base, on at most {settings.fisher_rows:,} training rows")
    context = Context(
        *(subject.checkpoint.model, subject.base, (), subject.data.task),
        lambda n, size: subject.batches(n, settings.seed, size),
        note=subject.record["notes"].append,
    )
    fisher, task = context.fisher(FisherPass(samples=settings.fisher_rows), key_for(settings.seed, "prepare"))
    record = {"folder": None} | {name: getattr(fisher, name) for name in FISHER_FIELDS}
    return Information(fisher.diagonal, task, record)
