"""The page on adding a family: its example is the product's file, and it names everything that can be chosen."""

import dataclasses
import re
from pathlib import Path

import pytest

from fft.models.decoder_shape import DecoderShape, LayerAttention
from fft.models.families import granite
from fft.models.model import Family

PAGE = (Path(__file__).parents[2] / "docs" / "add_a_model.md").read_text(encoding="utf-8")


def test_the_printed_file_is_the_one_of_the_family():
    printed, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert printed == Path(granite.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [*Family._fields, *(field.name for kind in (DecoderShape, LayerAttention) for field in dataclasses.fields(kind))],
)
def test_every_field_of_a_family_and_of_the_block_has_its_row(name):
    rows = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| ")]
    assert any(f"`{name}`" in row for row in rows)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)", PAGE))))
def test_its_links_lead_to_files(target):
    assert (Path(__file__).parents[2] / "docs" / target).exists()
