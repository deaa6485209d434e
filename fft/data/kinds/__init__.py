"""Kinds of tasks: how the labels of rows are read, and the messages for unusable rows.

A kind has one module here, one in fft/tasks for its loss and outputs, and an entry in KINDS of both.
"""

from fft.data.kinds.classification import Classification
from fft.data.kinds.kind import Kind
from fft.data.kinds.regression import Regression

KINDS: dict[str, Kind] = {"classification": Classification(), "regression": Regression()}

__all__ = ["KINDS", "Kind"]
