"""Places labels beside the points of a picture without overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

GAPS = (12, 20, 32, 48, 66, 90)  # pixels between a point and its label
FAR = 3  # cost per pixel of distance between label and point, in covered pixels
ASTRAY = 400  # cost of being nearer to another point
CLEAR, CROSSING = 9, 10_000  # pixels that a leader line stays off other points; cost of each that it comes nearer to
SWEEPS = 4  # passes over all labels; each sees the places of the others


class Box(NamedTuple):
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float


def place(
    sizes: Sequence[tuple[float, float]], at: Sequence[tuple[float, float]], marks: Sequence[Box], frame: Box
) -> list[Box]:
    """Return a box for each label, given their sizes (width, height), their points `at` (x, y) and `marks` to avoid.

    Candidates are right, left, above, below and at the corners of the point, at increasing distance. Each label takes
    the cheapest: little overlap with marks, labels and the outside of the frame, close to its point, not closer to
    another one, and with no other point on its leader line. Labels are placed in order, then again given all others.
    """
    placed: dict[int, Box] = {}
    for number in [*range(len(sizes))] * SWEEPS:
        taken = [*marks, *(box for other, box in placed.items() if other != number)]
        others = [point for other, point in enumerate(at) if other != number]
        candidates = [box for gap in GAPS for box in _around(*at[number], *sizes[number], gap)]
        costs = [_cost(box, taken, frame) + _distance_cost(box, at[number], others) for box in candidates]
        placed[number] = candidates[costs.index(min(costs))]
    return [placed[number] for number in range(len(sizes))]


def _around(x: float, y: float, width: float, height: float, gap: float) -> list[Box]:
    """Return the candidate boxes at about distance `gap` from a point, preferred ones first."""
    slant = 0.7 * gap
    corners = [
        (x + gap, y - height / 2),
        (x - gap - width, y - height / 2),
        (x - width / 2, y - gap - height),
        (x - width / 2, y + gap),
        (x + slant, y - slant - height),
        (x + slant, y + slant),
        (x - slant - width, y - slant - height),
        (x - slant - width, y + slant),
        (x - gap - width, y - 1.2 * height),
        (x - gap - width, y + 0.2 * height),
        (x + gap, y - 1.2 * height),
        (x + gap, y + 0.2 * height),
    ]
    return [Box(left, top, left + width, top + height) for left, top in corners]


def _cost(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """Return the covered pixels of the box, plus ten times those outside the frame."""
    area = (box.right - box.left) * (box.bottom - box.top)
    return 10 * (area - overlap(box, frame)) + sum(overlap(box, other) for other in taken)


def _distance_cost(box: Box, point: tuple[float, float], others: Sequence[tuple[float, float]]) -> float:
    """Return the cost of a label's distance from its point, of being nearer to another one, and of leader lines across
    other points.
    """
    own = distance(box, point)
    astray = any(distance(box, other) <= own for other in others)
    crossing = sum(distance_to_line(other, point, nearest(box, point)) < CLEAR for other in others)
    return FAR * own + ASTRAY * astray + CROSSING * crossing


def nearest(box: Box, point: tuple[float, float]) -> tuple[float, float]:
    """Return the spot of a box that is nearest to a point, where a leader line ends."""
    x, y = point
    return min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)


def distance(box: Box, point: tuple[float, float]) -> float:
    """Return the pixels from a point to the nearest spot of a box; 0 inside."""
    return math.dist(point, nearest(box, point))


def distance_to_line(point: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> float:
    """Return the pixels from a point to the nearest spot of the line between two others."""
    along = end[0] - start[0], end[1] - start[1]
    length = math.hypot(*along) or 1.0
    share = ((point[0] - start[0]) * along[0] + (point[1] - start[1]) * along[1]) / length**2
    share = min(max(share, 0.0), 1.0)
    return math.dist(point, (start[0] + share * along[0], start[1] + share * along[1]))


def overlap(a: Box, b: Box) -> float:
    """Return the area of the intersection of two boxes, in square pixels."""
    across = min(a.right, b.right) - max(a.left, b.left)
    down = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(0.0, across) * max(0.0, down)
