"""Kinds of tasks: how the rows of their data are read, and the messages for unusable ones.

A kind has one module here and an entry in KINDS; its loss and outputs are those of a task in fft/tasks.
"""

from fft.data.kinds.answer import Answer
from fft.data.kinds.chat import Chat
from fft.data.kinds.classification import Classification
from fft.data.kinds.completion import Completion
from fft.data.kinds.kind import EncodedRows, Kind
from fft.data.kinds.mlm import MaskedLanguage
from fft.data.kinds.regression import Regression
from fft.data.kinds.text import Text

KINDS: dict[str, Kind] = {
    "classification": Classification(),
    "regression": Regression(),
    "text": Text(),
    "completion": Completion(),
    "chat": Chat(),
    "answer": Answer(),
    "mlm": MaskedLanguage(),
}

__all__ = ["KINDS", "EncodedRows", "Kind"]
