"""The rows of several tasks as those of one."""

from collections.abc import Sequence

import numpy as np

from fft.data.batches import bucket_lengths
from fft.data.task_data import TaskData
from fft.data.tokenize import Encoded
from fft.tasks import Classify, Several


def together(given: Sequence[TaskData]) -> TaskData:
    """The training rows of some tasks as those of one, in their order; one task alone is itself."""
    if len(given) == 1:
        return given[0]
    tasks = tuple(data.task for data in given if isinstance(data.task, Classify))
    assert len(tasks) == len(given)  # an experiment takes one original task of regression alone
    widest = max(tasks, key=lambda task: task.outputs)
    rows = joined([data.splits["train"] for data in given])
    return TaskData(
        Several(", ".join(task.name for task in tasks), widest.labels, tasks=tasks),
        {"train": rows},
        bucket_lengths(rows.lengths()),
        given[0].pad_id,
        {"train": {"rows": len(rows.ids)}},
        (),
        {"train": [key for data in given for key in data.keys["train"]]},
    )


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The rows of some tasks, each row with its task's number where there is more than one."""
    if len(parts) == 1:
        return parts[0]
    return Encoded(
        [ids for part in parts for ids in part.ids],
        [types for part in parts for types in part.types],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.ids) for part in parts]),
    )
