"""How the figures of a diagnosis are written."""

from typing import Any

from fft.report.tables import NONE, half_width, signed


def turned(change: dict[str, Any]) -> dict[str, Any]:
    """A change, or a rise, the other way round: what was lost as a positive number."""
    value = change["change"] if "change" in change else change["value"]
    low, high = change["low"], change["high"]
    turned = [None if end is None else 0.0 - end for end in (value, high, low)]
    return dict(zip(("value", "low", "high"), turned, strict=True))


def figure(found: dict[str, Any]) -> str:
    """A change or a rise with half its interval."""
    value = found["change"] if "change" in found else found["value"]
    return NONE if value is None else f"{signed(value)} {half_width(found)}"


def small(value: float | None) -> str:
    """A prediction, which may be of any size: two digits that count."""
    return NONE if value is None else f"{value:.2g}"


def share(value: float | None) -> str:
    """A share as a percentage, which may be below zero."""
    return NONE if value is None else f"{100 * value:.0f} %".replace("-", "−")


def value_of(found: dict[str, Any]) -> float:
    """The change or the rise to rank by; 0 where there is none."""
    value = found["change"] if "change" in found else found["value"]
    return 0.0 if value is None else round(value, 9)
