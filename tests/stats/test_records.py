"""The records that commands write: dataclasses, whose page is made from them, and older files that lack a field."""

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


def test_the_page_says_every_field_of_every_record():
    assert PAGE.read_text() == page(), "run `python -m experiments.records`"
    kinds = {kind for kind in vars(records).values() if dataclasses.is_dataclass(kind)} - {records.Record}
    assert kinds == {*PARTS, *(part for parts in PARTS.values() for part in parts)}
    for row in page().splitlines():
        assert not row.endswith("|  |") or row.split("`")[1] in SETTINGS, f"{row} says nothing"


SETTINGS = {
    *(field.name for field in dataclasses.fields(records.FisherRequestRecord)),
    *(field.name for field in dataclasses.fields(records.StageRecord)),
    "text",
}
"""fields that the text of the one before covers, and one that its name says"""


def test_changes_and_surroundings_are_keys_of_their_own():
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(records.RunRecord))
    change = Change("accuracy", 0.5, 0.75, 0.25, 0.1, math.nan, 4)
    record = records.RunRecord(**{**nothing, "changes": {"new": change}, "environment": Made("a", "b")}).to_json()
    assert record["new"] == {**change._asdict(), "low": 0.1, "high": None} and record["original"] is None
    assert (record["git"], record["versions"]) == ("a", "b") and not {"changes", "environment"} & set(record)
    json.dumps(record, allow_nan=False)


class Made(NamedTuple):
    git: str
    versions: str


@dataclasses.dataclass(frozen=True)
class Nested:
    estimate: Estimate
    each: tuple[Estimate, ...]


def test_dataclasses_and_named_tuples_become_objects():
    one = Estimate(np.float32(0.5), 0.0, math.inf)
    told = {"value": 0.5, "low": 0.0, "high": None}
    assert plain(Nested(one, (one, one))) == {"estimate": told, "each": [told, told]}
    with pytest.raises(TypeError, match=r"each\[0\]\.value: JSON cannot hold a set"):
        plain(Nested(one, (Estimate(set(), 0, 0),)))
