"""A Data setting becomes rows, labels and lengths that fit the model, with everything odd said or refused."""

import hashlib
import re

import numpy as np
import pytest

from fft.core.errors import InputError
from fft.data import TrainBatches, describe, drop_overlap, head_of, prepare, prepare_scored, read_scored
from fft.experiment import Data
from fft.models import Head
from tests.helpers.tiny_tasks import checkpoint, tokenizer_folder, write_csv


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint(tokenizer_folder(tmp_path_factory.mktemp("model") / "m"))


def lines(count, start=0, label=lambda n: ("no", "yes")[n % 2]):
    return [
        f"{' '.join(f'w{(n * 7 + k) % 40}' for k in range(2 + n % 5))} w{n // 40},{label(n)}"
        for n in range(start, start + count)
    ]


def prepared(model, data, head=None, seed=0, max_length=None):
    return prepare(data, model, "new", head, seed=seed, max_length=max_length)


def test_classification(model, tmp_path):
    source = write_csv(tmp_path / "a.csv", lines(200))
    found = prepared(model, Data(source))
    assert found.task.name == "new" and found.task.labels == ("no", "yes") and found.task.metric == "accuracy"
    assert found.pad_id == 0 and found.warnings == () and len(found.lengths) <= 5
    assert head_of(found.task) == Head("classification", ("no", "yes"))
    assert {role: len(part.ids) for role, part in found.splits.items()} == {
        role: found.identity[role]["rows"] for role in ("train", "validation", "test")
    }
    wanted = lines(200)
    for part in found.splits.values():
        for ids, label, number in zip(part.ids, part.labels, part.numbers, strict=True):
            text, name = wanted[number - 1].split(",")
            assert ids.tolist() == [2, *(4 + int(word[1:]) for word in text.split()), 3]
            assert found.task.labels[label] == name
    batch = TrainBatches(found.splits["train"], 4, 0, found.lengths, found.pad_id).batch(0)
    assert batch.ids.shape[0] == 4


def test_identity_is_of_texts_and_labels_alone(model, tmp_path):
    source = write_csv(tmp_path / "a.csv", lines(60))
    first = prepared(model, Data(source)).identity
    assert prepared(model, Data(source), max_length=4, seed=3).identity == first
    changed = [line.replace(",no", ",nay") for line in lines(60)]
    assert prepared(model, Data(write_csv(tmp_path / "b.csv", changed))).identity["train"] != first["train"]
    assert len(first["train"]["sha256"]) == len(hashlib.sha256().hexdigest())


def test_train_rows_is_a_seeded_choice(model, tmp_path):
    source = write_csv(tmp_path / "a.csv", lines(100))
    whole = prepared(model, Data(source))
    numbers = [prepared(model, Data(source, train_rows=20), seed=s).splits["train"].numbers.tolist() for s in (0, 0, 1)]
    assert numbers[0] == numbers[1] != numbers[2] and numbers[0] == sorted(numbers[0]) and len(numbers[0]) == 20
    assert set(numbers[0]) < set(whole.splits["train"].numbers.tolist())
    few = prepared(model, Data(source, train_rows=20))
    assert few.identity["test"] == whole.identity["test"]


def test_regression(model, tmp_path):
    source = write_csv(tmp_path / "a.csv", lines(80, label=lambda n: n / 4), "text,score")
    found = prepared(model, Data(source, label="score", kind="regression", metric="rmse"))
    assert (found.task.kind, found.task.metric, found.task.outputs) == ("regression", "rmse", 1)
    assert found.splits["test"].labels.dtype == np.float32
    assert found.splits["test"].labels.tolist() == [(n - 1) / 4 for n in found.splits["test"].numbers]
    assert head_of(found.task) == Head("regression", ())


def test_a_class_that_only_the_carved_rows_have_is_known(model, tmp_path):
    rows = lines(200)
    carved = prepared(model, Data(write_csv(tmp_path / "a.csv", rows))).splits["test"].numbers[0]
    rows[carved - 1] = rows[carved - 1].rpartition(",")[0] + ",rare"
    found = prepared(model, Data(write_csv(tmp_path / "a.csv", rows)))
    assert found.task.labels == ("no", "rare", "yes")
    assert found.warnings == ("test: no training row has the label 'rare'",)


def test_warnings(model, tmp_path):
    source = write_csv(tmp_path / "a.csv", lines(100, label=lambda n: n % 2))
    test = write_csv(tmp_path / "t.csv", [*lines(4, label=lambda n: 1), f"{'w1 ' * 30},1"])
    found = prepared(model, Data(source, test=test), Head("classification", ("NEG", "POS")), max_length=16)
    assert found.splits["test"].labels.tolist() == [1] * 5
    assert set(found.warnings) == {
        "4 training rows are also in validation or test; they are not trained on",
        "test: all 5 rows have one label; its scores say little",
        "test: 1 of 5 texts is longer than 16 tokens and is cut",
        *(f"{r}: labels are numbers, read as the head's classes: 0 = NEG, 1 = POS" for r in found.splits),
    }


@pytest.mark.parametrize(
    ("rows", "setting", "head", "message"),
    [
        (lines(40, label=lambda n: "yes"), {}, None, "every row has the label 'yes'"),
        (lines(40, label=lambda n: "yes"), {}, Head("classification", ("no", "yes")), "training rows have one label"),
        (lines(40, label=lambda n: 1), {"kind": "regression"}, None, "training rows have one target"),
        (lines(40), {}, Head("regression", ()), "head 'new' is for regression, .*Give the kind regression"),
        (lines(40), {"metric": "pearson"}, None, "metric 'pearson' does not fit classification: choose from accuracy"),
        (lines(40), {}, Head("classification", ("a", "b")), r"unknown label '(no|yes)'; the head has 'a', 'b'"),
        (lines(40, label=lambda n: n % 3), {}, Head("classification", ("a", "b")), "row 3: unknown label '2'"),
        (lines(40, label=lambda n: n / 3), {}, None, "not a whole number.*kind regression"),
        (lines(40, label=lambda n: n % 2 - 1), {}, None, "label -1: .*unlabelled"),
    ],
)  # fmt: skip
def test_refused(model, tmp_path, rows, setting, head, message):
    with pytest.raises(InputError, match=message):
        prepared(model, Data(write_csv(tmp_path / "a.csv", rows), **setting), head)


def test_an_unknown_label_in_a_named_test_source(model, tmp_path):
    source = write_csv(tmp_path / "a.csv", lines(40))
    for row, labels in ((2, ("yes", "maybe")), (1, ("0", "1"))):
        test = write_csv(tmp_path / "t.csv", [f"w1,{labels[0]}", f"w2,{labels[1]}"])
        message = rf"t\.csv, row {row}: unknown label '{labels[row - 1]}'; the head has 'no', 'yes'\."
        with pytest.raises(InputError, match=message):
            prepared(model, Data(source, test=test))


def test_tokenizer_and_lengths_against_the_model(model, tmp_path):
    data = Data(write_csv(tmp_path / "a.csv", lines(40)))
    with pytest.raises(InputError, match="tokenizer is larger than the embedding table"):
        prepared(checkpoint(model.folder, vocab_size=43), data)
    with pytest.raises(InputError, match=r"max_length 129 is too large: give at most 128, the positions of "):
        prepared(model, data, max_length=129)
    scored = prepare_scored(data, read_scored(data), checkpoint(model.folder, max_positions=5), "new", None, None)
    assert scored.lengths[-1] == 5 and any("longer than 5 tokens" in warning for warning in scored.warnings)


def test_only_scored(model, tmp_path):
    source = write_csv(tmp_path / "a.csv", lines(30))
    head = Head("classification", ("no", "yes"))
    data = Data(source)
    found = prepare_scored(data, read_scored(data), model, "original", head, 16)
    assert found.splits["test"].numbers.tolist() == list(range(1, 31))
    held_out = prepare_scored(data, read_scored(data, held_out=True), model, "original", head, 16)
    assert held_out.identity["test"] == prepared(model, data, head=head).identity["test"]
    named = Data(source, test=write_csv(tmp_path / "t.csv", lines(3)))
    assert len(read_scored(named).texts) == len(read_scored(named, held_out=True).texts) == 3


def test_drop_overlap(model, tmp_path):
    new = prepared(model, Data(write_csv(tmp_path / "a.csv", lines(100))))
    apart = prepared(model, Data(write_csv(tmp_path / "b.csv", lines(50, 100))))
    assert drop_overlap(new, apart) == drop_overlap(new, new) == (new, ())
    test = write_csv(tmp_path / "t.csv", lines(6))
    scored = prepared(model, Data(write_csv(tmp_path / "b.csv", lines(50, 100)), test=test))
    found, notes = drop_overlap(new, scored)
    gone = set(new.splits["train"].numbers.tolist()) - set(found.splits["train"].numbers.tolist())
    assert gone == set(range(1, 7)) & set(new.splits["train"].numbers.tolist()) and gone
    assert notes[0].startswith(f"{len(gone)} training rows of 'new' are scored")
    assert found.identity["train"]["rows"] == len(found.keys["train"]) == len(new.keys["train"]) - len(gone)
    assert found.identity["train"]["sha256"] != new.identity["train"]["sha256"]
    with pytest.raises(InputError, match="scored on the text of every training row"):
        drop_overlap(new, scored._replace(keys={"test": new.keys["train"]}))


def test_whole_numbers_with_a_point_are_the_same_classes(model, tmp_path):
    plain = write_csv(tmp_path / "a.csv", lines(60, label=lambda n: n % 2))
    pointed = write_csv(tmp_path / "b.csv", lines(60, label=lambda n: f"{n % 2}.0"))
    one, other = prepared(model, Data(plain)), prepared(model, Data(pointed))
    assert one.task == other.task and one.identity == other.identity and one.task.labels == ("0", "1")
    assert one.warnings == () and other.warnings == tuple(f"{role}: labels 1.0 are read as 1" for role in one.splits)
    test = write_csv(tmp_path / "t.csv", lines(20, 60, label=lambda n: f"{n % 2}.0"))
    assert prepared(model, Data(plain, test=test)).warnings == ("test: labels 1.0 are read as 1",)
    mixed = write_csv(tmp_path / "m.csv", [*lines(60, label=lambda n: n % 2), *lines(60, label=lambda n: f"{n % 2}.0")])
    found = describe(Data(mixed))
    assert found["troubles"] == [] and sum(split["labels"]["1"] for split in found["splits"].values()) == 60


def test_missing_values(model, tmp_path):
    told = re.compile(r"\w+: (\d+) (row has|rows have) the label 'NA', which reads like a missing value")
    numbers = write_csv(tmp_path / "a.csv", lines(100, label=lambda n: "NA" if n % 10 == 3 else f"{n % 2}.0"))
    for kind in ("classification", "regression"):
        found = describe(Data(numbers, kind=kind))
        counts = [int(met[1]) for trouble in found["troubles"] if (met := told.fullmatch(trouble))]
        assert sum(counts) == 10 and len(counts) == len(found["troubles"])
        heads = (None, Head("classification", ("0", "1")) if kind == "classification" else Head("regression", ()))
        for head in heads:
            with pytest.raises(InputError, match=r"row 4: the (label|target) 'NA' reads like .*; 10 rows have such a"):
                prepared(model, Data(numbers, kind=kind), head)
    assert found["splits"]["train"]["targets"]["1.0"] == 1.0
    assert set(describe(Data(numbers))["splits"]["train"]["labels"]) == {"0", "1", "NA"}
    paired = [f"{line.replace(',', ',w1,')}" for line in lines(100)]
    paired[2:4] = ["nan,w1,NA", "w5,None,yes"]
    test = write_csv(tmp_path / "t.csv", paired[:4], "text,pair,label")
    data = Data(write_csv(tmp_path / "b.csv", paired, "text,pair,label"), pair="pair", test=test)
    wanted = {
        "test: 1 row has the label 'NA', which reads like a missing value",
        "test: 1 text is 'nan', which reads like a missing value",
        "test: 1 second text is 'None', which reads like a missing value",
    }
    assert wanted <= set(describe(data)["troubles"])
    found = prepared(model, data, Head("classification", ("NA", "no", "yes")))
    assert wanted - set(found.warnings) == {"test: 1 row has the label 'NA', which reads like a missing value"}
    with pytest.raises(InputError, match=r"t\.csv, row 3: the label 'NA' reads like a missing value; it is the only"):
        prepared(model, data)  # no training row has it
    none = write_csv(tmp_path / "c.csv", lines(60, label=lambda n: "None" if n % 3 else "yes"))
    assert all("'None', which reads like" in note for note in prepared(model, Data(none)).warnings)
    assert len(prepared(model, Data(none)).warnings) == len(describe(Data(none))["troubles"]) == 3
    only = describe(Data(write_csv(tmp_path / "d.csv", lines(60, label=lambda n: "NA")), kind="regression"))
    assert only["splits"]["train"]["targets"] == {} and len(only["troubles"]) == 3


def test_describe(model, tmp_path):
    rows = [*lines(60), *lines(60), lines(1)[0].replace(",no", ",yes"), f"{'w1 ' * 30},no"]
    found = describe(Data(write_csv(tmp_path / "a.csv", rows)), model.folder, 16)
    splits = found["splits"]
    assert sum(split["rows"] for split in splits.values()) == 122 and found["length_unit"] == "tokens"
    assert sum(split["duplicates"] for split in splits.values()) == 61
    assert sum(split["cut"] for split in splits.values()) == 1
    assert sum(split["labels"]["yes"] for split in splits.values()) == 61
    assert max(split["lengths"]["1.0"] for split in splits.values()) == 32
    assert any("1 text has different labels in different rows" in trouble for trouble in found["troubles"])
    assert any("longer than 16 tokens" in trouble for trouble in found["troubles"])
    words = describe(Data(write_csv(tmp_path / "b.csv", lines(50, label=lambda n: "yes"))))
    assert words["splits"]["train"]["cut"] is None and words["length_unit"] == "words"
    assert "train: " in words["troubles"][0] and "every row has the label 'yes'" in words["troubles"][0]
    targets = describe(Data(write_csv(tmp_path / "c.csv", lines(50, label=lambda n: n / 2)), kind="regression"))
    assert targets["splits"]["train"]["targets"]["1.0"] <= 24.5 and targets["troubles"] == []
    same = describe(Data(write_csv(tmp_path / "e.csv", lines(50, label=lambda n: -1)), kind="regression"))
    assert any("rows have the target -1: pearson is 0 by definition" in trouble for trouble in same["troubles"])
    names = describe(Data(write_csv(tmp_path / "d.csv", lines(50)), kind="regression"))
    assert names["splits"]["train"]["targets"] == {} and "is not a number" in names["troubles"][0]


def test_a_vocabulary_that_does_not_fit_is_told_before_training_and_by_the_run(model, tmp_path):
    source = write_csv(tmp_path / "a.csv", [f"gone{n} w{n % 40} w1 w2,{n % 2}" for n in range(40)])
    told = [f"{role}: 25 % of the tokens are unknown to this vocabulary" for role in ("train", "validation", "test")]
    assert [each for each in describe(Data(source), model.folder)["troubles"] if "unknown to" in each] == told
    assert [note for note in prepared(model, Data(source)).warnings if "unknown to" in note] == told


def test_demo_data(minilm, demo_data):
    from fft import models

    found = prepared(models.load(minilm), Data("demo:tweets"))
    assert {role: entry["rows"] for role, entry in found.identity.items()} == {
        "train": 2689, "validation": 336, "test": 337,
    }  # fmt: skip
    assert found.task.labels == ("negative", "positive") and found.warnings == ()
