"""The sentence on the contract of a run."""

from collections.abc import Mapping
from typing import Any

from fft.report.words import loss_word
from fft.stats.retention import SAME


def contract_sentence(contract: dict[str, Any], metrics: Mapping[str, str]) -> str:
    """Return a sentence on whether and how a run met its contract; `metrics` are those of the original tasks."""
    kept, margins = contract["kept"], contract["margins"]
    if not contract["met"]:
        lost = contract["tried"][0]["drops"]
        worst = max(margins, key=lambda name: lost[name] - margins[name])
        excess = lost[worst] - margins[worst]
        why = f"loses {lost[worst]:.3g}, {excess:.3g} too much" if excess > SAME else "is within it and gains nothing"
        lost_score = f"{worst} {loss_word([metrics[worst]])}"
        return (
            f"the contract is not met: no candidate that gains on the new task keeps the {lost_score} "
            f"within {margins[worst]:.3g} on validation rows; the trained model {why}. The base is kept"
        )
    way = f"step {kept['step']}" + ("" if kept["alpha"] == 1 else f", {kept['alpha']:g} of the way from the base")
    drops = " and ".join(
        f"a {loss_word([metrics[name]])} of {_signed(kept['drops'][name])} on validation rows where {margin:.3g} is "
        f"allowed{'' if len(margins) == 1 else f' ({name})'}"
        for name, margin in margins.items()
    )
    return f"kept under the contract: {way}, {drops}; the multiplier ended at {contract['strength']:.3g}"


def _signed(drop: float) -> str:
    return f"{drop:+.4f}".replace("-", "−")
