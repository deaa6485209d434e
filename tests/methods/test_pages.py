"""Every method has a page, rows in the tables and a public name."""

import re
from pathlib import Path

import pytest

import fft
from fft.methods import METHODS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_page_rows_in_the_tables_and_a_public_name(name):
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}:") and re.search(rf"--method [\w+]*\b{name}\b", page)
    assert f"\n| [{name}]({name}.md) |" in (ROOT / "docs" / "methods" / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"fft.{METHODS[name].__name__}(" in page and METHODS[name].__name__ in fft.__all__


def test_there_are_no_other_pages():
    assert {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} == {*METHODS, "README"}
