"""The accepted drop of a score as written on a command line: 0.01 in units of the score, or 1% of the base's."""

import math
from dataclasses import dataclass

from fft.core.errors import InputError
from fft.stats.metrics import Metric

LEAST = 1e-9


@dataclass(frozen=True)
class Budget:
    """The accepted drop of a score: `amount` in units of the score, or, where `relative`, as a share of the base's.

    >>> Budget.parse("0.01").margin(0.8), Budget.parse("1%").margin(0.8)
    (0.01, 0.008)
    """

    amount: float
    relative: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and self.amount >= LEAST):
            raise _invalid(f"{self.amount:g}")

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Parse `0.01`, in units of the score, or `1%`, of the base's score.

        Raises: InputError for text that is not a number, is not finite, or is less than LEAST.
        """
        number = text.strip().removesuffix("%")
        relative = number != text.strip()
        if "_" in number or not number.isascii():  # float takes 1_0, and digits of other scripts
            raise _invalid(text)
        try:
            amount = float(number)
        except ValueError:
            raise _invalid(text) from None
        amount = amount / 100 if relative else amount
        if not (math.isfinite(amount) and amount >= LEAST):
            raise _invalid(text)
        return cls(amount, relative)

    def margin(self, base_score: float) -> float:
        """Return the accepted drop in units of the score, for a base with this score.

        Raises: InputError for a relative budget if base_score is 0 or not finite.
        """
        if not self.relative:
            return self.amount
        if not math.isfinite(base_score) or base_score == 0:
            raise InputError(
                f"--max-drop {self} is a share of the base's score, which is {base_score:g}: give the drop in units of "
                "the score, such as 0.01"
            )
        return self.amount * abs(base_score)

    def biting_margin(self, metric: Metric, base_score: float) -> float:
        """Return `margin`, but reject one that no loss could exceed, such as `1` where `1%` was meant.

        Raises: InputError for such a margin, and as `margin` does.
        """
        margin = self.margin(base_score)
        most = base_score - metric.bounds[0] if metric.sign > 0 else math.inf
        if most == 0:
            raise InputError(
                f"--max-drop {self}: the base's {metric.name} is {base_score:.3g}, the worst there is, and cannot drop "
                "by more than 0: leave --max-drop out, or give a task or a metric at which the base does better"
            )
        if margin >= most:
            raise InputError(
                f"--max-drop {self}: the base's {metric.name} is {base_score:.3g} and cannot drop by more than "
                f"{most:.3g}, so nothing would fail: give 1% for one per cent of it, 0.01 for a hundredth of the score"
            )
        return margin

    def __str__(self) -> str:
        return f"{100 * self.amount:g}%" if self.relative else f"{self.amount:g}"


def _invalid(text: str) -> InputError:
    return InputError(
        f"--max-drop {text!r}: expected a number above 0 (not below 1e-9), the accepted drop in units of the score, "
        "such as 0.01, or as a share of the base's score, such as 1%"
    )


JUDGED = 1024  # most validation rows of each task on which a contract is decided
