"""Where to write the names beside the points of a picture, so that none covers another or a mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

GAPS = (12, 20, 32, 48)  # pixels between a point and its label; nearer is better


class Box(NamedTuple):
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float


def place(
    sizes: Sequence[tuple[float, float]], at: Sequence[tuple[float, float]], marks: Sequence[Box], frame: Box
) -> list[Box]:
    """A box for each label: sizes (width, height) of the labels, `at` their points (x, y), marks what not to cover.

    Greedy, in order: of the places right, left, above, below and at the corners, at growing distance, the first of
    the least overlap with marks, labels already placed and the outside of the frame.
    """
    placed: list[Box] = []
    for (width, height), (x, y) in zip(sizes, at, strict=True):
        candidates = [box for gap in GAPS for box in _around(x, y, width, height, gap)]
        placed.append(min(candidates, key=lambda box: _cost(box, [*marks, *placed], frame)))
    return placed


def _around(x: float, y: float, width: float, height: float, gap: float) -> list[Box]:
    """The eight places at this distance from a point, the preferred first."""
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
    ]
    return [Box(left, top, left + width, top + height) for left, top in corners]


def _cost(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """Pixels of the box that are covered or outside the frame."""
    area = (box.right - box.left) * (box.bottom - box.top)
    return 10 * (area - overlap(box, frame)) + sum(overlap(box, other) for other in taken)


def overlap(a: Box, b: Box) -> float:
    """The area two boxes share, in square pixels."""
    across = min(a.right, b.right) - max(a.left, b.left)
    down = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(0.0, across) * max(0.0, down)
