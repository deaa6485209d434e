"""The sentences of a diagnosis."""

import shlex
from typing import Any

from fft.core.naming import counted
from fft.report.diagnosed.figures import figure, share, small, turned, value_of
from fft.report.tables import score
from fft.report.words import loss_word

HEADLINES = {
    "misaligned": (
        "pass",
        "Mostly misaligned: the features still contain the original task, but the head no longer fits them",
    ),
    "gone": ("fail", "Mostly gone: the features lost the original task, and a new head does not recover it"),
    "undecided": (
        "undecided",
        "Undecided: these test rows cannot tell whether the features or the head lost most of it",
    ),
    "nothing": ("none", "Nothing to explain: the score is not significantly worse on these test rows"),
}
WITHOUT_HEAD = {
    True: ("fail", "The score got worse: the layers below say where"),
    False: HEADLINES["nothing"],
}
"""the headlines of a language task, by whether the score got worse: no head is fitted to the features"""
SPREAD = 0.5  # share of the drop: if no layer recovers that much, no single layer caused the drop


def lost_sentence(record: dict[str, Any]) -> str:
    """Return what the tuned model lost, in score and loss."""
    change, loss = record["change"], record["loss"]
    return (
        f"original {change['metric']} {score(change['before'])} → {score(change['after'])} on {change['n']:,} test "
        f"rows, a {_word(record)} of {figure(turned(change))}; loss {score(loss['base'])} → {score(loss['tuned'])} nats"
    )


def _word(record: dict[str, Any]) -> str:
    return loss_word([record["change"]["metric"]])


def layer_sentence(record: dict[str, Any]) -> str:
    """Return which layer recovers most, and which loses most alone; empty if nothing is lost."""
    if not record["lost"]:
        return ""
    best, role = (_most_back(record[name]) for name in ("layers", "roles"))
    worst = min(record["layers"], key=lambda row: (value_of(row["alone"]), -value_of(row["alone_rise"])))
    spread = value_of(best["put_back"]) < SPREAD * value_of(turned(record["change"]))
    return (
        f"restoring {best['name']} recovers most: {figure(best['put_back'])}"
        f"{', less than half of the {_word(record)}, so no single layer caused it' if spread else ''}; tuned alone, "
        f"{worst['name']} loses most: {figure(turned(worst['alone']))}; of the roles over all blocks, "
        f"{role['name']} recovers most: {figure(role['put_back'])}; layers interact, so these figures do not "
        f"sum to the {_word(record)}"
    )


def _most_back(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: (value_of(row["put_back"]), -value_of(row["put_back_rise"])))


def prediction_sentence(record: dict[str, Any]) -> str:
    """Return the predicted and the measured rise of the loss, and how well the rankings of the layers agree."""
    rise, predicted, order = record["rise"], record["predicted"], record["order"]
    text = f"the Fisher information predicts a rise of the loss of {small(predicted)} nats, measured is "
    text += figure(rise)
    if predicted and rise["value"] is not None:
        times = rise["value"] / predicted
        text += f", {times:,.0f} times as much" if abs(times) >= 10 else f", {times:.2g} times as much"
    text += ": the prediction is a local second-order approximation without interactions of parameters"
    if order is not None:
        text += f"; Spearman's ρ of the two rankings of the layers is {order:.2f}".replace("-", "−")
    return text


def headline(record: dict[str, Any]) -> tuple[str, str]:
    """Return the outcome as a class of style, and in words."""
    refit = record["refit"]
    return WITHOUT_HEAD[record["lost"]] if refit is None else HEADLINES[refit["outcome"]]


def head_sentence(record: dict[str, Any]) -> str:
    """Return what a newly fitted head recovers, and how much of the drop is missing from the features."""
    refit = record["refit"]
    if refit is None:
        return ""
    metric, missing, kept = record["change"]["metric"], turned(refit["missing"]), refit["kept"]
    rows = refit["fitted"]["tuned"]["rows"]
    text = (
        f"a new head fitted to the frozen tuned features ({counted(rows, 'training row')}) recovers "
        f"{figure(refit['back'])}, to {metric} {score(refit['back']['after'])}; one fitted to the base's features "
        f"reaches {score(refit['reference']['after'])}, so {figure(missing)} is missing from the features"
    )
    if refit["outcome"] == "nothing":
        return text
    drop = 0.0 - record["change"]["change"]
    ends = "" if kept["low"] is None else f" ({share(kept['low'])} to {share(kept['high'])})"
    text += f": of the {_word(record)} of {drop:.3f} {share(kept['value'])}{ends} is not due to the features"
    return (
        text
        + {
            "misaligned": "; the features are intact, the head is misaligned",
            "gone": "; the knowledge is gone from the features",
            "undecided": "; these test rows cannot tell which of the two lost most of it",
        }[refit["outcome"]]
    )


def flags(record: dict[str, Any]) -> str:
    """Return the proposal as flags of `fft tune`; empty if there is none."""
    proposal = record["proposal"]
    if proposal is None or proposal["all"]:
        return ""
    return f"--method freeze --freeze.pattern {shlex.quote(proposal['pattern'])}"


def proposal_sentence(record: dict[str, Any]) -> str:
    """Return the proposal for the next run, and the reason."""
    proposal = record["proposal"]
    if proposal is None:
        return ""
    names = ", ".join(step["layer"] for step in proposal["steps"])
    enough = f"{100 * proposal['enough']:.0f} % of the {_word(record)} on the validation rows"
    if proposal["all"]:
        return (
            f"only all layers together recover {enough}, so no freeze is proposed; a gentler method, such as "
            "--method lora or --method kl, changes all of them less"
        )
    return (
        f"restoring {names} together recovers {figure(proposal['put_back'])} on the test rows; a greedy search for the "
        f"fewest layers that recover {enough} found them. To freeze them in the next run is a proposal, not a result: "
        "the other layers would learn differently, and the new task was not scored"
    )


def sentences(record: dict[str, Any]) -> list[str]:
    """Return all sentences, in order."""
    makers = (lost_sentence, layer_sentence, prediction_sentence, head_sentence, proposal_sentence)
    return [text for text in (make(record) for make in makers) if text]
