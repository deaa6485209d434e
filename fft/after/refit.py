"""Whether what a model knew is gone from its features, or only its head no longer fits them.

A new head is fitted to frozen features twice, of the tuned model and of the base, on the same rows. What the second
can do and the first cannot is missing from the tuned features, as far as such a head can tell; the rest of the drop is
the head's: it reads features that have moved.

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

MOST = 0.5  # of a drop: more than this is most of it
MISALIGNED, GONE, UNDECIDED, NOTHING = "misaligned", "gone", "undecided", "nothing"


def refitted(
    checkpoint: Checkpoint, params: Params, task: Task, batches: Iterable[Batch], key: jax.Array
) -> tuple[Params, dict]:
    """`params` with the head of `task` fitted anew to their frozen features, and how that went (as `fit_head`)."""
    head, how = fit_head(checkpoint._replace(params=params), task, batches, key)
    return overlay(params, {"heads": {task.name: head}}), how


def kept_share(drop: float, missing: Change) -> Estimate:
    """The share of a drop that is not missing from the features, 1 − missing / drop, with the ends that the interval of
    what is missing puts on it; the drop is taken as known. `missing` is the change from the head refitted on the base
    to the one on the tuned model.
    """
    return Estimate(*(1 + change / drop for change in (missing.change, missing.low, missing.high)))


def outcome(share: Estimate) -> str:
    """Whether most of a drop is the head's (misaligned) or the features' (gone), for the whole interval."""
    if share.low > MOST:
        return MISALIGNED
    return GONE if share.high < MOST else UNDECIDED


def judged(change: Change, missing: Change) -> tuple[str, Estimate | None]:
    """The outcome and the share for a change from base to tuned; "nothing" where its interval shows no drop."""
    if not is_lost(change):
        return NOTHING, None
    share = kept_share(-change.change, missing)
    return outcome(share), share


def is_lost(change: Change) -> bool:
    """Whether the whole interval of a change lies below 0."""
    return change.high < 0
