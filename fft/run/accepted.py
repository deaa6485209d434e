"""Accepted: an experiment with its checkpoint and data, loaded and checked."""

from typing import NamedTuple

from fft.core.naming import ORIGINAL, original_names
from fft.data import TaskData, task_of, together
from fft.experiment import Experiment
from fft.models import Checkpoint
from fft.run.heads import HeadNames, own_head
from fft.tasks import Task

UNLABELLED = "unlabelled"


class Accepted(NamedTuple):
    """An experiment whose checkpoint and data are loaded and fit together; nothing has been written."""

    experiment: Experiment
    checkpoint: Checkpoint
    names: HeadNames
    data: dict[str, TaskData]
    """by task name, as in Job.data"""
    identity: dict
    """hashes of the base weights and of every split"""
    notes: tuple[str, ...]
    method_notes: tuple[str, ...]
    """notes of the method's own check of the base and the original task"""

    @property
    def originals(self) -> list[TaskData]:
        """The data of the original tasks, in order."""
        return [self.data[name] for name in original_names(self.data)]

    @property
    def tasks_by_head(self) -> dict[str, Task]:
        """The original tasks and the new one, by the name of their head."""
        return {data.task.name: data.task for data in (*self.originals, self.data["new"])}

    @property
    def original_task(self) -> Task | None:
        """The task to preserve: the original data's (of several their union), else that of the requested head or the
        base's classifier, else None.
        """
        if original := self.streams.get(ORIGINAL):
            return original.task
        name = own_head(self.experiment.original_head, self.checkpoint)
        head = self.checkpoint.head(name)
        return None if name is None or head is None else task_of(name, head)

    @property
    def streams(self) -> dict[str, TaskData]:
        """The data by training stream; all original tasks together are one stream."""
        rest = {name: self.data[name] for name in ("new", UNLABELLED) if name in self.data}
        return rest | ({ORIGINAL: together(self.originals)} if self.originals else {})
