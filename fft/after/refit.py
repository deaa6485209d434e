"""Tell whether the knowledge is gone from a model's features, or only the head no longer fits them (linear probing).

A new head is fitted to the frozen features of the tuned model and of the base, on the same rows. The difference between
the two refitted scores is missing from the tuned features, as far as such a head can tell; the rest of the drop is due
to the old head, which reads features that have moved.

Reference: linear probes of forgetting: Davari et al. 2022, arXiv 2203.13381.
"""

from collections.abc import Iterable

import jax

from fft.core.batch import Batch
from fft.core.tree import Params, overlay
from fft.evaluate.headfit import fit_head
from fft.models import Checkpoint
from fft.stats.intervals import Change, Estimate
from fft.tasks import Task

MOST = 0.5  # a larger share of a drop is most of it
MISALIGNED, GONE, UNDECIDED, NOTHING = "misaligned", "gone", "undecided", "nothing"


def refitted(
    checkpoint: Checkpoint, params: Params, task: Task, batches: Iterable[Batch], key: jax.Array
) -> tuple[Params, dict]:
    """Return `params` with the head of `task` refitted to their frozen features, and the fit's figures (`fit_head`)."""
    head, fit = fit_head(checkpoint._replace(params=params), task, batches, key)
    return overlay(params, {"heads": {task.name: head}}), fit


def share_in_features(drop: float, missing: Change) -> Estimate:
    """Return the share of a drop that is still in the features, 1 − missing / drop, with its interval.

    `missing` is the change from the head refitted on the base to the one refitted on the tuned model, whose interval is
    carried over; the drop is taken as known.
    """
    return Estimate(*(1 + change / drop for change in (missing.change, missing.low, missing.high)))


def outcome(share: Estimate) -> str:
    """Return MISALIGNED (most of the drop is due to the head), GONE (due to the features) or UNDECIDED.

    The whole interval must be on one side of MOST.
    """
    if share.low > MOST:
        return MISALIGNED
    return GONE if share.high < MOST else UNDECIDED


def classify_drop(change: Change, missing: Change) -> tuple[str, Estimate | None]:
    """Return the outcome and the share for a change from base to tuned; NOTHING and None without a certain drop."""
    if not is_lost(change):
        return NOTHING, None
    share = share_in_features(-change.change, missing)
    return outcome(share), share


def is_lost(change: Change) -> bool:
    """Whether a change is a certain drop: its whole interval lies below 0."""
    return change.high < 0
