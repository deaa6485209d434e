"""Tasks as pure functions: loss, divergence from a teacher, sampled labels for the Fisher information, row scores."""

from fft.tasks.classify import Classify
from fft.tasks.regress import Regress
from fft.tasks.several import Several
from fft.tasks.task import Task

KINDS: dict[str, type[Task]] = {"classification": Classify, "regression": Regress}

__all__ = ["KINDS", "Classify", "Regress", "Several", "Task"]
