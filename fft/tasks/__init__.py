"""Tasks as pure functions: loss, divergence from a teacher, sampled labels for the Fisher information, row scores."""

from fft.tasks.answers import Answers
from fft.tasks.classify import Classify
from fft.tasks.language import Language
from fft.tasks.languages import Languages
from fft.tasks.regress import Regress
from fft.tasks.several import Several
from fft.tasks.task import Task

KINDS: dict[str, type[Task]] = {"classification": Classify, "regression": Regress, "language": Language}

__all__ = ["KINDS", "Answers", "Classify", "Language", "Languages", "Regress", "Several", "Task"]
