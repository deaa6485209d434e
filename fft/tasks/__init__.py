"""Tasks: the loss of one example, the divergence from the base, the labels a Fisher is taken over; pure functions."""

from fft.tasks.classify import Classify
from fft.tasks.regress import Regress
from fft.tasks.several import Several
from fft.tasks.task import Task

KINDS: dict[str, type[Task]] = {"classification": Classify, "regression": Regress}

__all__ = ["KINDS", "Classify", "Regress", "Several", "Task"]
