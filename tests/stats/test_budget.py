"""The accepted drop: its text, its margin, and invalid values."""

import math

import pytest

from fft.core.errors import InputError
from fft.stats.budget import Budget


@pytest.mark.parametrize(
    ("text", "base_score", "margin", "shown"),
    [
        ("0.01", 0.8, 0.01, "0.01"),
        ("1e-2", 0.8, 0.01, "0.01"),
        (" 2 ", 4.0, 2.0, "2"),
        ("1%", 0.8, 0.008, "1%"),
        ("2.5 %", 0.4, 0.01, "2.5%"),
        ("50%", -0.2, 0.1, "50%"),  # a correlation below 0: the share is of its absolute value
    ],
)
def test_the_margin_of_a_budget(text, base_score, margin, shown):
    budget = Budget.parse(text)
    assert budget.margin(base_score) == pytest.approx(margin) and str(budget) == shown
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text", ["", " ", "%", "0", "0%", "-0.01", "-1%", "nan", "nan%", "inf", "1%%", "a tenth", "1,5", "1_0%", "١%"]
)
def test_invalid_budgets_are_rejected(text):
    with pytest.raises(InputError, match=r"--max-drop .*expected a number above 0.*0.01.*1%"):
        Budget.parse(text)


@pytest.mark.parametrize("amount", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_built_in_python_is_checked_too(amount):
    with pytest.raises(InputError, match="--max-drop"):
        Budget(amount)


@pytest.mark.parametrize("score", [0.0, math.nan, -math.inf])
def test_a_share_of_0_or_a_score_that_is_not_finite(score):
    with pytest.raises(InputError, match="--max-drop 1% is a share of the base's score, which is"):
        Budget.parse("1%").margin(score)
    assert Budget.parse("0.01").margin(score) == 0.01
