"""What a run was accepted with: its checkpoint and its data, read and found to fit."""

from typing import NamedTuple

from fft.core.naming import ORIGINAL, original_names
from fft.data import TaskData, task_of, together
from fft.experiment import Experiment
from fft.models import Checkpoint
from fft.run.heads import HeadNames, own_head
from fft.tasks import Task

UNLABELLED = "unlabelled"


class Accepted(NamedTuple):
    """An experiment whose checkpoint and data were read and found to fit; nothing has been written."""

    experiment: Experiment
    checkpoint: Checkpoint
    names: HeadNames
    data: dict[str, TaskData]
    """as of the Job"""
    identity: dict
    notes: tuple[str, ...]
    checked: tuple[str, ...]
    """what the method noted of the base and the original task"""

    @property
    def originals(self) -> list[TaskData]:
        """The original tasks, in their order."""
        return [self.data[name] for name in original_names(self.data)]

    @property
    def served(self) -> dict[str, Task]:
        """The tasks by the name of their head."""
        return {data.task.name: data.task for data in (*self.originals, self.data["new"])}

    @property
    def original_task(self) -> Task | None:
        """The task to preserve: that of the original data, of several their union; without data that of the head that
        is asked for, else of the base's classifier; None where there is neither.
        """
        if original := self.streams.get(ORIGINAL):
            return original.task
        name = own_head(self.experiment.original_head, self.checkpoint)
        return None if name is None else task_of(name, self.checkpoint.heads[name])

    @property
    def streams(self) -> dict[str, TaskData]:
        """The training rows that there are, by stream: all original tasks are one."""
        rest = {name: self.data[name] for name in ("new", UNLABELLED) if name in self.data}
        return rest | ({ORIGINAL: together(self.originals)} if self.originals else {})
