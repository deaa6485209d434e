"""Formats the figures of a diagnosis."""

from typing import Any

from fft.report.tables import NONE, half_width, signed


def turned(change: dict[str, Any]) -> dict[str, Any]:
    """Return a change or rise with the opposite sign, so that a loss is positive."""
    value = change["change"] if "change" in change else change["value"]
    low, high = change["low"], change["high"]
    turned = [None if end is None else 0.0 - end for end in (value, high, low)]
    return dict(zip(("value", "low", "high"), turned, strict=True))


def figure(change: dict[str, Any]) -> str:
    """Return a change or rise with half its interval as text."""
    value = change["change"] if "change" in change else change["value"]
    return NONE if value is None else f"{signed(value)} {half_width(change)}"


def small(value: float | None) -> str:
    """Return a number of any magnitude with two significant digits."""
    return NONE if value is None else f"{value:.2g}"


def share(value: float | None) -> str:
    """Return a share as a percentage, which may be negative."""
    return NONE if value is None else f"{100 * value:.0f} %".replace("-", "−")


def value_of(change: dict[str, Any]) -> float:
    """Return the change or rise as a number for ranking; 0 if there is none."""
    value = change["change"] if "change" in change else change["value"]
    return 0.0 if value is None else round(value, 9)
