"""Whether an answer is the expected one."""

import pytest

from fft.stats.matching import is_right, last_number

CASES = {
    "exact_match": [(" 3 ", "3", True), ("3.", "3", False), ("a  b", "a b", True), ("A", "a", False), ("", "", False)],
    "squad_match": [("The Eiffel tower.", "eiffel tower", True), ("tower", "eiffel tower", False), ("", "the", False)],
    "number_match": [
        ("is 1,234.0", "1234", True),
        ("12", "13", False),
        ("−4", "-4", True),
        ("four", "4", False),
        ("1e5", "100,000", True),
        ("1,2,3", "123", False),
        ("5-3", "3", True),
        ("3/2", "2", False),
        ("-0", "0", True),
        ("nan", "nan", False),
    ],
}


@pytest.mark.parametrize("metric", CASES)
def test_matches(metric):
    for answer, expected, right in CASES[metric]:
        assert is_right(metric, answer, expected) is right, (answer, expected)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("x = 7-3", "3"),
        ("on 2024-11-30", "30"),
        ("(2) -3", "-3"),
        ("$-.5", "-0.5"),
        ("3,4", "4"),
        ("1,2345", "2345"),
        ("12,", "12"),
        ("3.", "3"),
        ("３", "3"),
        ("1e99999999999999999999", "99999999999999999999"),
    ],
)
def test_last_number(text, number):
    assert str(last_number(text)) == number


@pytest.mark.parametrize("text", ["1/2", "12/05/2024", "10:30", "10^6", "1.2.3", "²"])
def test_a_part_is_no_number(text):
    assert last_number(text) is None
