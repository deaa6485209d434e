"""`--method auto`: choose a method by which data of the original task there are, from measured results."""

import dataclasses
from typing import Any, NamedTuple

from fft.methods import METHODS, Method

AUTO = "auto"
EVIDENCE = "experiments/results/fronts.md"
COLUMNS = "| method | strength | original | forgotten | new | seconds |"
KL_ROW = "| kl | 1 | 0.843 ± 0.003 | 0.003 ± 0.003 | 0.950 ± 0.003 | 52 |"
LWF_ROW = "| lwf | 1 | 0.835 ± 0.002 | 0.010 ± 0.002 | 0.892 ± 0.012 | 39 |"


class Choice(NamedTuple):
    """A method with its settings, the reason for it, and the row of EVIDENCE that supports it, if any."""

    method: str
    settings: dict[str, Any]
    why: str
    row: str | None

    def chain(self, configured: Method | None = None) -> Method:
        """Return the method, built from `configured` or from the method's defaults, with the settings of the choice."""
        return dataclasses.replace(configured or METHODS[self.method](), **self.settings)

    def __str__(self) -> str:
        if self.row is None:
            return f"method auto: {self.method}, because {self.why}; not measured"
        cells = zip(*([cell.strip() for cell in row.strip("|").split("|")] for row in (COLUMNS, self.row)), strict=True)
        measured = ", ".join(f"{name} {value}" for name, value in cells)
        return f"method auto: {self.method}, because {self.why}; chosen from {EVIDENCE}: {measured}"


def choose(original: bool, unlabelled: bool, head: bool) -> Choice:
    """Choose the method: `original` and `unlabelled` say which data there are, `head` whether the base has a head."""
    if original:
        why = "there are original data: on some of their rows in every step the head is trained to predict as the base"
        return Choice("kl", {}, why, KL_ROW)
    on = "unlabelled" if unlabelled else "new"
    if not head:
        why = f"the base has no head to preserve: on the {on} texts the hidden state is trained to stay near the base's"
        return Choice("distill", {"on": on}, why, None)
    why = f"there are no original data: on the {on} texts the head is trained to predict as the base"
    return Choice("kl", {"on": on}, why, KL_ROW) if unlabelled else Choice("lwf", {}, why, LWF_ROW)


def choose_for(model: str, original: bool, unlabelled: bool, language: bool = False) -> Choice:
    """`choose` for a base, a Hugging Face folder or hf:NAME; without original data it is checked for a head.

    Tasks that predict tokens (`language`) have the language head, and the measured rows are not of them.
    Raises: InputError for a model that cannot be read.
    """
    if language:
        return choose(original, unlabelled, head=True)._replace(row=None)
    if original:
        return choose(original, unlabelled, head=True)
    from fft import models

    return choose(original, unlabelled, models.has_head(model))
