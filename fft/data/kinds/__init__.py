"""Kinds of tasks as rows have them: what their labels are read as, and what is said of rows that do not fit.

A kind is one file here and one in fft/tasks, which has its mathematics, and a line in KINDS of each.
"""

from fft.data.kinds.classification import Classification
from fft.data.kinds.kind import Kind
from fft.data.kinds.regression import Regression

KINDS: dict[str, Kind] = {"classification": Classification(), "regression": Regression()}

__all__ = ["KINDS", "Kind"]
