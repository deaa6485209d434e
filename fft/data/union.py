"""Merges the training rows of several tasks."""

from collections.abc import Sequence

import numpy as np

from fft.data.batches import bucket_lengths
from fft.data.encoded import Encoded
from fft.data.task_data import TaskData
from fft.tasks import Classify, Several


def together(originals: Sequence[TaskData]) -> TaskData:
    """Merge the training rows of classification tasks, in order, into one TaskData; a single task is returned as is."""
    if len(originals) == 1:
        return originals[0]
    tasks = tuple(data.task for data in originals if isinstance(data.task, Classify))
    assert len(tasks) == len(originals)  # an experiment allows a regression task only as its single original task
    widest = max(tasks, key=lambda task: task.outputs)
    rows = joined([data.splits["train"] for data in originals])
    return TaskData(
        Several(", ".join(task.name for task in tasks), widest.labels, tasks=tasks),
        {"train": rows},
        bucket_lengths(rows.lengths()),
        originals[0].pad_id,
        {"train": {"rows": len(rows.ids)}},
        (),
        {"train": [key for data in originals for key in data.keys["train"]]},
        kind=originals[0].kind,
    )


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Concatenate the rows of tasks; with more than one, each row has its task's number."""
    if len(parts) == 1:
        return parts[0]
    return Encoded(
        [ids for part in parts for ids in part.ids],
        [types for part in parts for types in part.types],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.ids) for part in parts]),
    )
