"""A verdict in words: the headline, and the sentence with every figure behind it."""

from __future__ import annotations

from typing import Any

from fft.core.naming import counted
from fft.report.html import paragraph
from fft.report.tables import score, signed, verdicts

OF_SEVERAL: dict[str | None, str] = {
    "pass": "Kept: every original task is within its accepted drop",
    "fail": "Lost: an original task dropped by more than is accepted",
}
HEADLINES = {
    "pass": "Kept: the original task is within the accepted drop",
    "fail": "Lost: the original task dropped by more than is accepted",
    "undecided": "Undecided: these test examples do not settle it",
    None: "No original task was given: what was forgotten is not measured (`fft check` does it afterwards)",
}
MANY = 10_000  # test examples; an estimate beyond has two digits
NOISE = 3.84  # 1.96²: so many times the examples are needed where the drop is one standard error from what is accepted


def sentence(run: dict[str, Any]) -> str:
    """The verdict in words: the two scores, the drop with its interval, the tolerance, what would decide; of several
    original tasks one such part each.

    Reads the original tasks and their verdicts of a run.json, or of a task of a check.json. The same sentence serves
    the pages and the last line of a command. It begins with what a run did not reach where that kept its base. Empty
    where there is no original task.
    """
    found = verdicts(run)
    outcomes = {name: f"{verdict['outcome']}: " if len(found) > 1 else "" for name, verdict in found.items()}
    said = ".\n".join(outcomes[name] + _sentence(name, verdict, run[name]) for name, verdict in found.items())
    unreached = base_kept(run)
    return f"{unreached}: {said}" if said and unreached else said


def base_kept(run: dict[str, Any]) -> str | None:
    """Why the model of a run is its base, so that nothing was learned and nothing lost; None where it is not."""
    if run.get("kept_step") != 0:
        return None
    why = "no scored step beat it" if run["contract"] is None else "the contract is not met"
    return f"the base is kept, {why}"


def _sentence(name: str, verdict: dict[str, Any], change: dict[str, Any]) -> str:
    if reason := verdict.get("reason"):
        return (
            f"{name} {change['metric']} on {counted(change['n'], 'test example')} decides nothing: {reason}. Give "
            "labelled examples that differ"
        )
    said = f"{name} {change['metric']} {score(change['before'])} → {score(change['after'])}"
    said += f" on {counted(change['n'], 'test example')}"
    if verdict["drop"] is not None:
        said += f", a drop of {signed(verdict['drop'])}"
    if verdict["drop_low"] is not None and verdict["drop_high"] is not None:
        said += f" (95 % interval {signed(verdict['drop_low'])} to {signed(verdict['drop_high'])})"
    said += f"; accepted is {verdict['tolerance']:.3g}"
    if verdict["outcome"] == "undecided" and verdict["drop"] is not None:
        said += _what_decides(verdict["needed"], change["n"])
    return said


def _what_decides(needed: int | None, n: int) -> str:
    """How many test examples would decide; that none will soon where these n cannot tell the drop from what is accepted
    and thousands would be needed.
    """
    if needed is None or needed > max(MANY, NOISE * n):
        return ", and the drop within noise of it: no number of test examples will decide soon"
    about = needed if needed <= MANY else int(float(f"{needed:.1e}"))
    return f"; about {about:,} test examples would decide"


def box(run: dict[str, Any], more: str = "") -> str:
    """The headline and the sentence, with what more there is to say, as the HTML that a page begins with."""
    outcome = run["verdict"]["outcome"] if run["verdict"] else None
    headline = (OF_SEVERAL if len(verdicts(run)) > 1 else {}).get(outcome, HEADLINES[outcome])
    colour = outcome or "none"
    if unreached := base_kept(run):
        headline, colour = f"{unreached[:1].upper()}{unreached[1:]}", "none" if run["contract"] is None else "fail"
    return f'<div class="verdict {colour}"><h2>{headline}</h2>{paragraph(sentence(run) + more)}</div>'
