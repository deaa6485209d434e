"""A search for the last point on a path from the base to a tuned model within a budget, with few evaluations."""

import math
from collections.abc import Callable

EXTRA = 2
"""evaluations beyond those of a bisection"""
WITHIN = 1.0
"""the largest loss within the budget, in units of the budget"""


def most_questions(places: int) -> int:
    """Return the largest number of places that `furthest` evaluates."""
    return min(places - 1, (places - 1).bit_length() + EXTRA)


def furthest(places: int, loss_at: Callable[[int], float], end: float = math.inf) -> None:
    """Evaluate the loss at some of the places 1 … `places` - 1, until the last place within the budget and the first
    beyond it are neighbours.

    The loss is 0 at place 0 and `end`, beyond the budget, at `places`; between them it grows, up to noise. The base is
    at a minimum of the loss, so near it the loss grows with the square of the distance: the next place is where a
    parabola through the two known losses on either side of the budget crosses it. That place is clipped so that a
    bisection can finish within the remaining evaluations, of which there are EXTRA more than a bisection needs (the
    projection of Oliveira and Takahashi 2020, ACM Transactions on Mathematical Software 47, 5).
    """
    left, low, right, high = 0, 0.0, places, end
    for remaining in reversed(range((places - 1).bit_length() + EXTRA)):
        if right - left <= 1:
            return
        room = 2**remaining
        share = (WITHIN - low) / (high - low) if math.isfinite(high) else 0.5
        crossing = int(math.sqrt(left**2 + share * (right**2 - left**2)))
        at = min(max(crossing, left + 1, right - room), right - 1, left + room)
        loss = loss_at(at)
        if loss <= WITHIN:
            left, low = at, loss
        else:  # nan as well
            right, high = at, loss
