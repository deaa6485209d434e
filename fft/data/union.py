"""Merges the training rows of several tasks."""

from collections.abc import Sequence

import numpy as np

from fft.data.batches import bucket_lengths
from fft.data.encoded import Encoded
from fft.data.masking import Masking
from fft.data.task_data import TaskData
from fft.tasks import Classify, Language, Languages, Several, Task


def together(originals: Sequence[TaskData]) -> TaskData:
    """Merge the training rows of tasks that an experiment allows beside each other, in order, into one TaskData; a
    single task is returned as is.
    """
    if len(originals) == 1:
        return originals[0]
    rows = joined([data.splits["train"] for data in originals])
    return TaskData(
        _union([data.task for data in originals]),
        {"train": rows},
        bucket_lengths(rows.lengths()),
        originals[0].pad_id,
        {"train": {"rows": len(rows.ids)}},
        (),
        {"train": [key for data in originals for key in data.keys["train"]]},
        kind=originals[0].kind,
    )


def _union(tasks: Sequence[Task]) -> Task:
    """Return tasks that are all classification, or all of the language head, as one."""
    languages = tuple(task for task in tasks if isinstance(task, Language))
    if len(languages) == len(tasks):
        return Languages(languages[0].name, languages[0].metric, tasks=languages)
    classes = tuple(task for task in tasks if isinstance(task, Classify))
    assert len(classes) == len(tasks)  # an experiment allows a regression task only as its single original task
    widest = max(classes, key=lambda task: task.outputs)
    return Several(", ".join(task.name for task in classes), widest.labels, tasks=classes)


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Concatenate the rows of tasks; with more than one, each row is an example and has its task's number."""
    if len(parts) == 1:
        return parts[0]
    parts = [part if part.example is None else part.take(np.arange(len(part.ids))) for part in parts]
    targets = [row for part in parts for row in part.targets or ()]
    return Encoded(
        [ids for part in parts for ids in part.ids],
        [types for part in parts for types in part.types],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.ids) for part in parts]),
        targets or None,
        masking=_masking([part.masking for part in parts]),
    )


def _masking(parts: Sequence[Masking | None]) -> Masking | None:
    """Return the maskings of one tokenizer as one; tasks with and without hidden tokens are not of one model."""
    some = [part for part in parts if part is not None]
    return some[0]._replace(texts=[text for part in some for text in part.texts]) if some else None
