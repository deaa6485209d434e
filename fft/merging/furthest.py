"""How far one can go from a base towards a tuned model within a budget, with few questions."""

import math
from collections.abc import Callable

EXTRA = 2
WITHIN = 1.0
"""the loss of what just keeps the budget, in units of it"""


def most_questions(places: int) -> int:
    """How many places `furthest` asks for at most."""
    return min(places - 1, (places - 1).bit_length() + EXTRA)


def furthest(places: int, loss_at: Callable[[int], float], end: float = math.inf) -> None:
    """Ask for the loss at some of the places 1 … `places` - 1, until the last one within the budget and the first one
    beyond are neighbours. The loss at place 0 is 0, at `places` it is `end`, beyond; between it grows, but for noise.

    The base is where the loss was trained to be least, so about it the loss grows with the square of the way: each
    question is where a parabola through the two known losses about the budget crosses it. How many places may be left
    to search bounds it from both sides, so that a bisection's number of questions and EXTRA more is the most there can
    be (the projection of Oliveira and Takahashi 2020, ACM Transactions on Mathematical Software 47, 5).
    """
    left, low, right, high = 0, 0.0, places, end
    for left_over in reversed(range((places - 1).bit_length() + EXTRA)):
        if right - left <= 1:
            return
        room = 2**left_over
        share = (WITHIN - low) / (high - low) if math.isfinite(high) else 0.5
        crossing = int(math.sqrt(left**2 + share * (right**2 - left**2)))
        at = min(max(crossing, left + 1, right - room), right - 1, left + room)
        loss = loss_at(at)
        if loss <= WITHIN:
            left, low = at, loss
        else:  # nan as well
            right, high = at, loss
