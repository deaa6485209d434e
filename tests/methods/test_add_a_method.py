"""The complete example in docs/add_a_method.md runs as printed."""

import re
import sys
import types
from pathlib import Path

import pytest

from fft.methods import METHODS
from tests.helpers import methods as shared
from tests.helpers.toy import toy_params

PAGE = Path(__file__).parents[2] / "docs" / "add_a_method.md"


@pytest.fixture
def blocks(monkeypatch):
    """Run the code and the test of the page, with its method registered, and return the test's names."""
    file, test = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = types.ModuleType("fft.methods.leafwise")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # a dataclass looks its own module up
    exec(compile(file, "the file of the page", "exec"), module.__dict__)
    monkeypatch.setitem(METHODS, "leafwise", module.Leafwise)
    known = {**vars(shared), "pytest": pytest, "Leafwise": module.Leafwise}
    exec(compile(test, "the test of the page", "exec"), known)
    return known


def test_the_example_passes_its_own_test(blocks):
    blocks["test_leafwise_weighs_a_leaf_by_the_slope_of_the_original_loss"](toy_params(heads={"original": 3, "new": 3}))


@pytest.mark.parametrize("names", ["leafwise", "lora+leafwise"])
def test_the_example_keeps_the_contract(blocks, names, tmp_path):
    shared.check_contract(names, tmp_path)
