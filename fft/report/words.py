"""Words for a score that got worse, by whether higher or lower is better."""

from collections.abc import Iterable

from fft.stats.metrics import METRICS


def loss_word(metrics: Iterable[str]) -> str:
    """Return what the loss of a score is called: a drop, or a rise where lower is better; "drop or rise" of both."""
    words = {"rise" if METRICS[name].sign < 0 else "drop" for name in metrics}
    return " or ".join(sorted(words)) or "drop"
