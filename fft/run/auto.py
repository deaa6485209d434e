"""`--method auto`: the chain that the evidence is for, by what there is of the original task."""

import dataclasses
from typing import Any, NamedTuple

from fft.methods import METHODS, Method

AUTO = "auto"
EVIDENCE = "experiments/results/fronts.md"
COLUMNS = "| method | strength | original | forgotten | new | seconds |"
KL_ROW = "| kl | 1 | 0.843 ± 0.003 | 0.003 ± 0.003 | 0.950 ± 0.003 | 52 |"
LWF_ROW = "| lwf | 1 | 0.835 ± 0.002 | 0.010 ± 0.002 | 0.892 ± 0.012 | 39 |"


class Choice(NamedTuple):
    """A method with settings of its own, why it was chosen, and the row of EVIDENCE that it was chosen from, if any."""

    method: str
    settings: dict[str, Any]
    why: str
    row: str | None

    def chain(self, given: Method | None = None) -> Method:
        """The method itself: `given`, or the one with the defaults, with the settings of the choice."""
        return dataclasses.replace(given or METHODS[self.method](), **self.settings)

    def __str__(self) -> str:
        if self.row is None:
            return f"method auto: {self.method}, because {self.why}; not measured"
        cells = zip(*([cell.strip() for cell in row.strip("|").split("|")] for row in (COLUMNS, self.row)), strict=True)
        measured = ", ".join(f"{name} {value}" for name, value in cells)
        return f"method auto: {self.method}, because {self.why}; chosen from {EVIDENCE}: {measured}"


def choose(original: bool, unlabelled: bool, head: bool) -> Choice:
    """What to train with, given original data, texts without labels, or neither; `head`: whether the base has one."""
    if original:
        why = "there are original data: on some of their rows in every step the head goes on saying what the base said"
        return Choice("kl", {}, why, KL_ROW)
    on = "unlabelled" if unlabelled else "new"
    if not head:
        why = f"the base has no head to keep: on the {on} texts its hidden state stays near what it was"
        return Choice("distill", {"on": on}, why, None)
    why = f"there are no original data: on the {on} texts the head goes on saying what the base said"
    return Choice("kl", {"on": on}, why, KL_ROW) if unlabelled else Choice("lwf", {}, why, LWF_ROW)


def choose_for(model: str, original: bool, unlabelled: bool) -> Choice:
    """`choose` for a base, a Hugging Face folder or hf:NAME, which is asked for a head where nothing else is given.

    Raises: InputError for a model that cannot be read.
    """
    if original:
        return choose(original, unlabelled, head=True)
    from fft import models

    return choose(original, unlabelled, models.has_head(model))
