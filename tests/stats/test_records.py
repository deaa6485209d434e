"""The records that commands write, and the page that is generated from their dataclasses."""

import dataclasses
import json
import math
from typing import NamedTuple

import numpy as np
import pytest

from experiments.records import PAGE, PARTS, page
from fft.disk.files import plain
from fft.stats import records
from fft.stats.intervals import Change, Estimate


def test_the_page_describes_every_field_of_every_record():
    assert PAGE.read_text() == page(), "run `python -m experiments.records`"
    kinds = {kind for kind in vars(records).values() if dataclasses.is_dataclass(kind)} - {records.Record}
    assert kinds == {*PARTS, *(part for parts in PARTS.values() for part in parts)}
    for row in page().splitlines():
        assert not row.endswith("|  |") or row.split("`")[1] in SETTINGS, f"{row} has no text"


SETTINGS = {
    *(field.name for field in dataclasses.fields(records.FisherRequestRecord)),
    *(field.name for field in dataclasses.fields(records.StageRecord)),
    "text",
}
"""fields covered by the text of the field before them, and one whose name is enough"""


def test_changes_and_environment_become_separate_keys():
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(records.RunRecord))
    change = Change("accuracy", 0.5, 0.75, 0.25, 0.1, math.nan, 4)
    record = records.RunRecord(
        **{**nothing, "changes": {"new": change}, "environment": Surroundings("a", "b")}
    ).to_json()
    assert record["new"] == {**change._asdict(), "low": 0.1, "high": None} and record["original"] is None
    assert (record["git"], record["versions"]) == ("a", "b") and not {"changes", "environment"} & set(record)
    json.dumps(record, allow_nan=False)


class Surroundings(NamedTuple):
    git: str
    versions: str


@dataclasses.dataclass(frozen=True)
class Nested:
    estimate: Estimate
    each: tuple[Estimate, ...]


def test_dataclasses_and_named_tuples_become_objects():
    estimate = Estimate(np.float32(0.5), 0.0, math.inf)
    expected = {"value": 0.5, "low": 0.0, "high": None}
    assert plain(Nested(estimate, (estimate, estimate))) == {"estimate": expected, "each": [expected, expected]}
    with pytest.raises(TypeError, match=r"each\[0\]\.value: JSON cannot hold a set"):
        plain(Nested(estimate, (Estimate(set(), 0, 0),)))
