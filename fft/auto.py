"""`--method auto`: the chain that the evidence is for, by what there is of the original task."""

from typing import Any, NamedTuple

EVIDENCE = "experiments/results/fronts.md"


class Choice(NamedTuple):
    """A method with settings of its own, why it was chosen, and the row of EVIDENCE that it was chosen from."""

    method: str
    settings: dict[str, Any]
    why: str
    row: str

    def __str__(self) -> str:
        return f"method auto: {self.method}, because {self.why}; chosen from {EVIDENCE}: {self.row}"


KEEPS = "its head goes on saying what the base said"
KL_ROW = ""
LWF_ROW = ""


def choose(original: bool, unlabelled: bool) -> Choice:
    """What to train with, given original data, texts without labels, or neither."""
    if unlabelled:
        why = f"there are texts without labels: on a few of them in every step {KEEPS.replace('its', 'the original')}"
        return Choice("kl", {"on": "unlabelled"}, why, KL_ROW)
    if original:
        return Choice("kl", {}, f"there are original data: on a few of their rows in every step {KEEPS}", KL_ROW)
    return Choice("lwf", {}, f"there is nothing of the original task but the base: on the new texts {KEEPS}", LWF_ROW)
