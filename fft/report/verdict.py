"""A verdict in words: the headline, and a sentence with its figures."""

from __future__ import annotations

from typing import Any

from fft.core.naming import counted
from fft.report.html import paragraph
from fft.report.tables import score, signed, verdicts
from fft.report.words import loss_word

OF_SEVERAL: dict[str | None, str] = {
    "pass": "Passed: every original task is within what it may lose",
    "fail": "Failed: an original task lost more than is accepted",
}
HEADLINES = {
    "pass": "Passed: the original task is within what it may lose",
    "fail": "Failed: the original task lost more than is accepted",
    "undecided": "Undecided: these test examples cannot decide it",
    None: "No original task was given, so forgetting was not measured: measure it with `fft check`",
}
MANY = 10_000  # larger estimates of the test examples needed are rounded to two digits
NOISE = 3.84  # 1.96²: factor on the examples if the drop is one standard error from the accepted one


def sentence(run: dict[str, Any]) -> str:
    """Return the verdict in words, for pages and terminals; empty if there is no original task.

    It has the two scores, the drop with its interval (a rise where lower is better), the tolerance, and how many
    examples would decide, once for each original task. `run` is run.json data, or a task of check.json. If a run ended
    with its base, the reason comes first.
    """
    by_task = verdicts(run)
    outcomes = {name: f"{verdict['outcome']}: " if len(by_task) > 1 else "" for name, verdict in by_task.items()}
    text = ".\n".join(outcomes[name] + _sentence(name, verdict, run[name]) for name, verdict in by_task.items())
    unreached = base_kept(run)
    return f"{unreached}: {text}" if text and unreached else text


def base_kept(run: dict[str, Any]) -> str | None:
    """Return why a run ended with its base as the model; None if it did not."""
    if run.get("kept_step") != 0:
        return None
    why = "no scored step beat it" if run["contract"] is None else "the contract is not met"
    return f"the base is kept, {why}"


def _sentence(name: str, verdict: dict[str, Any], change: dict[str, Any]) -> str:
    if reason := verdict.get("reason"):
        return (
            f"{name} {change['metric']} on {counted(change['n'], 'test example')} decides nothing: {reason}. Give "
            "examples with different labels"
        )
    text = f"{name} {change['metric']} {score(change['before'])} → {score(change['after'])}"
    text += f" on {counted(change['n'], 'test example')}"
    word = loss_word([change["metric"]])
    if verdict["drop"] is not None:
        text += f", a {word} of {signed(verdict['drop'])}"
    if verdict["drop_low"] is not None and verdict["drop_high"] is not None:
        text += f" (95 % interval {signed(verdict['drop_low'])} to {signed(verdict['drop_high'])})"
    text += f"; accepted is {verdict['tolerance']:.3g}"
    if verdict["outcome"] == "undecided" and verdict["drop"] is not None:
        text += _what_decides(verdict["needed"], change["n"], word)
    return text


def _what_decides(needed: int | None, n: int, word: str) -> str:
    """Return how many test examples would decide.

    If the drop, or rise, is within noise of the accepted one and thousands would be needed, no number is given.
    """
    if needed is None or needed > max(MANY, NOISE * n):
        return f", and the {word} is within noise of it: no feasible number of test examples would decide"
    about = needed if needed <= MANY else int(float(f"{needed:.1e}"))
    return f"; about {about:,} test examples would decide"


def box(run: dict[str, Any], more: str = "") -> str:
    """Return the headline, the sentence and the text `more` as HTML, for the top of a page."""
    outcome = run["verdict"]["outcome"] if run["verdict"] else None
    headline = (OF_SEVERAL if len(verdicts(run)) > 1 else {}).get(outcome, HEADLINES[outcome])
    colour = outcome or "none"
    if unreached := base_kept(run):
        headline, colour = f"{unreached[:1].upper()}{unreached[1:]}", "none" if run["contract"] is None else "fail"
    return f'<div class="verdict {colour}"><h2>{headline}</h2>{paragraph(sentence(run) + more)}</div>'
