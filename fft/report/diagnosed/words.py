"""A diagnosis in sentences."""

import shlex
from typing import Any

from fft.core.naming import counted
from fft.report.diagnosed.figures import figure, share, small, turned, value_of
from fft.report.tables import score

HEADLINES = {
    "misaligned": ("pass", "Mostly kept: the features still hold it, the head no longer fits them"),
    "gone": ("fail", "Mostly gone: the features lost it, no head brings it back"),
    "undecided": ("undecided", "Undecided: these test rows do not settle whether features or head lost most of it"),
    "nothing": ("none", "Nothing to explain: these test rows do not show that the score dropped"),
}
SPREAD = 0.5  # of the drop: where no layer gives that much back, no one layer did it


def lost_sentence(record: dict[str, Any]) -> str:
    """What was lost between the two models."""
    change, loss = record["change"], record["loss"]
    return (
        f"original {change['metric']} {score(change['before'])} → {score(change['after'])} on {change['n']:,} test "
        f"rows, a drop of {figure(turned(change))}; loss {score(loss['base'])} → {score(loss['tuned'])} nats"
    )


def layer_sentence(record: dict[str, Any]) -> str:
    """The layer that gives most back, and the one that loses most alone; empty where nothing is lost."""
    if not record["lost"]:
        return ""
    best, role = (_most_back(record[name]) for name in ("layers", "roles"))
    worst = min(record["layers"], key=lambda row: (value_of(row["alone"]), -value_of(row["alone_rise"])))
    spread = value_of(best["put_back"]) < SPREAD * value_of(turned(record["change"]))
    return (
        f"most comes back with {best['name']}: {figure(best['put_back'])}"
        f"{', less than half of the drop: no one layer did it' if spread else ''}; tuned alone, {worst['name']} loses "
        f"most: {figure(turned(worst['alone']))}; of the parts of all blocks, {role['name']} gives most back: "
        f"{figure(role['put_back'])}; layers work together, so none of these figures add up to the drop"
    )


def _most_back(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: (value_of(row["put_back"]), -value_of(row["put_back_rise"])))


def prediction_sentence(record: dict[str, Any]) -> str:
    """The predicted beside the measured rise of the loss, and whether the layers come in the same order."""
    rise, predicted, order = record["rise"], record["predicted"], record["order"]
    said = f"the Fisher information predicts a rise of the loss of {small(predicted)} nats, measured are "
    said += figure(rise)
    if predicted and rise["value"] is not None:
        times = rise["value"] / predicted
        said += f", {times:,.0f} times as much" if abs(times) >= 10 else f", {times:.2g} times as much"
    said += ": the prediction is local, to second order and without what parameters do together"
    if order is not None:
        said += f"; the two orders of the layers have Spearman's ρ {order:.2f}".replace("-", "−")
    return said


def head_sentence(record: dict[str, Any]) -> str:
    """What a head fitted anew brings back, and what of the drop is missing from the features."""
    refit = record["refit"]
    metric, missing, kept = record["change"]["metric"], turned(refit["missing"]), refit["kept"]
    rows = refit["fitted"]["tuned"]["rows"]
    said = (
        f"a head fitted anew to the frozen tuned features ({counted(rows, 'training row')}) brings "
        f"{figure(refit['back'])} back, to {metric} {score(refit['back']['after'])}; one fitted to the base's features "
        f"reaches {score(refit['reference']['after'])}, so {figure(missing)} is missing from the features"
    )
    if refit["outcome"] == "nothing":
        return said
    drop = 0.0 - record["change"]["change"]
    ends = "" if kept["low"] is None else f" ({share(kept['low'])} to {share(kept['high'])})"
    said += f": of the drop of {drop:.3f} {share(kept['value'])}{ends} is not the features'"
    return (
        said
        + {
            "misaligned": "; features kept, head misaligned",
            "gone": "; the knowledge is gone from the features",
            "undecided": "; which of the two lost most of it, these test rows do not settle",
        }[refit["outcome"]]
    )


def flags(record: dict[str, Any]) -> str:
    """The proposal as flags of `fft tune`; empty where there is none."""
    proposal = record["proposal"]
    if proposal is None or proposal["all"]:
        return ""
    return f"--method freeze --freeze.pattern {shlex.quote(proposal['pattern'])}"


def proposal_sentence(record: dict[str, Any]) -> str:
    """What is proposed for the next run, and on what grounds."""
    proposal = record["proposal"]
    if proposal is None:
        return ""
    names = ", ".join(step["layer"] for step in proposal["steps"])
    enough = f"{100 * proposal['enough']:.0f} % of the drop on the validation rows"
    if proposal["all"]:
        return (
            f"no set of layers but all of them gives {enough} back, so no freeze is proposed; a gentler method, such "
            "as --method lora or --method kl, moves all of them less"
        )
    return (
        f"{names} put back together give {figure(proposal['put_back'])} back on the test rows; found greedily as the "
        f"fewest layers that give {enough} back. To freeze them in the next run is a proposal, not a measured result: "
        "the other layers would learn differently, and the new task was not scored"
    )


def sentences(record: dict[str, Any]) -> list[str]:
    """All that is said, in order."""
    said = (lost_sentence, layer_sentence, prediction_sentence, head_sentence, proposal_sentence)
    return [text for text in (sentence(record) for sentence in said) if text]
