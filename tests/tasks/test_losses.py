"""Labels become class numbers or errors that name their row; losses equal their closed forms, example by example."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.batch import Outputs, States, weighted_sum
from fft.core.errors import InputError
from fft.data.labels import class_texts, encode_labels, encode_targets, label_notes, numbers_for_names
from fft.data.rows import Rows
from fft.tasks.classify import Classify
from fft.tasks.regress import Regress
from tests.helpers.toy import toy_batch


def rows_of(labels):
    return Rows(["t"] * len(labels), None, list(labels), list(range(5, 5 + len(labels))), "file.csv")


def outputs_with(head, logits):
    """Return the outputs of a model whose only head returns these logits."""
    return Outputs(States(logits), lambda name, states: {head: states}[name])


def test_cross_entropy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 3)) * 200
    label = np.array([0, 2, 1, 1, 0, 2], np.int32)
    weight = np.array([1, 1, 1, 1, 1, 0], np.float32)
    batch = toy_batch(rows=6)._replace(targets=label, weight=weight)
    nll = Classify("new", ("a", "b", "c")).terms(outputs_with("new", logits.astype(np.float32)), batch)
    shifted = logits - logits.max(1, keepdims=True)
    expected = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(6), label]
    np.testing.assert_allclose(nll, expected, rtol=1e-5, atol=1e-4)
    assert weighted_sum(nll, weight) == jnp.sum(nll[:5]) and nll.dtype == np.float32
    assert weighted_sum(nll.at[5].set(jnp.nan), weight) == jnp.sum(nll[:5]), "the loss of a filler row does not count"


def test_cross_entropy_gradient_is_probability_minus_label():
    logits = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    batch = toy_batch(rows=4)._replace(targets=np.array([2, 0, 1, 1]), weight=np.array([1, 1, 1, 0], np.float32))
    task = Classify("h", ("a", "b", "c"))
    grad = jax.grad(lambda z: weighted_sum(task.terms(outputs_with("h", z), batch), batch.weight))(logits)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = (probability - np.eye(3)[batch.targets]) * batch.weight[:, None]
    np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_squared_error():
    outputs = outputs_with("h", np.array([[1.0], [2.0], [7.0]], np.float32))
    targets, weight = np.array([0.5, 4.0, 0.0], np.float32), np.array([1, 1, 0], np.float32)
    batch = toy_batch(rows=3)._replace(targets=targets, weight=weight)
    terms = Regress("h").terms(outputs, batch)
    assert terms.tolist() == [0.125, 2.0, 24.5] and weighted_sum(terms, weight) == 2.125
    assert Regress("h", sigma=2.0).terms(outputs, batch).tolist() == [0.03125, 0.5, 6.125]


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["pos", "neg", "pos"], ("neg", "pos"), [1, 0, 1]),
        (["10", "2", "10"], ("2", "10"), [1, 0, 1]),
        ([3, 0, 1], ("0", "1", "3"), [2, 0, 1]),
        (["1", "x"], ("1", "x"), [0, 1]),
        (["1.5", "x"], ("1.5", "x"), [0, 1]),
        (["1.0", "x"], ("1.0", "x"), [0, 1]),
        (["0,5", "x"], ("0,5", "x"), [0, 1]),
        (["1.0", "0.0", "1."], ("0", "1"), [1, 0, 1]),
        ([1.0, 0, 2e0], ("0", "1", "2"), [1, 0, 2]),
        (["01", "2", "+3"], ("+3", "01", "2"), [1, 2, 0]),
    ],
)
def test_names_of_a_new_head(labels, names, numbers):
    classes, labels_in_order = encode_labels(rows_of(labels))
    assert (classes.tolist(), labels_in_order, classes.dtype) == (numbers, names, np.int32)


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["POSITIVE", "negative"], ("NEGATIVE", "POSITIVE"), [1, 0]),
        (["1", "0"], ("LABEL_0", "LABEL_1"), [1, 0]),
        (["LABEL_1", "LABEL_0"], ("LABEL_0", "LABEL_1"), [1, 0]),
        ([1, 0], ("NEGATIVE", "POSITIVE"), [1, 0]),
        ([1, 3], ("0", "1", "3"), [1, 2]),
        (["A", "a"], ("a", "A"), [1, 0]),
        (["1.0", "0.0"], ("0.0", "1.0"), [1, 0]),
        (["1", "2.00", 2], ("2.0", "1.0"), [1, 0, 0]),
        (["1.0", "0"], ("0", "1"), [1, 0]),
        ([1.0, 0.0], ("NEGATIVE", "POSITIVE"), [1, 0]),
        ([1.0, 0.0], ("LABEL_0", "LABEL_1"), [1, 0]),
        (["1,5", "0,5"], ("0,5", "1,5"), [1, 0]),
        (["pos", "NEG"], ("neg ", "\tpos"), [1, 0]),
        (["2", "1"], ("1 ", "2"), [1, 0]),
        ([0.5, 1.5], ("1.5", "0.5"), [1, 0]),
    ],
)
def test_names_of_a_fixed_head(labels, names, numbers):
    classes, labels_in_order = encode_labels(rows_of(labels), names)
    assert (classes.tolist(), labels_in_order) == (numbers, names)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (["a", "-1"], None, None),
        (["0", "1", "-1"], None, r"file\.csv, row 7: label -1: -1 and other negative numbers mark unlabelled rows"),
        ([0, 1, -1], ("no", "yes"), "row 7: label -1: .*unlabelled"),
        ([0, 1, 2], ("no", "yes"), "row 7: unknown label '2'; the head has 'no', 'yes', or 0 to 1"),
        ([0, 1, 2], ("0", "1"), r"row 7: unknown label '2'; the head has '0', '1'\.$"),
        (["yes", "yess"], ("no", "yes"), "row 6: unknown label 'yess'.*Did you mean 'yes'"),
        (["a", "b"], ("0", "LABEL_1"), "unknown label 'a'.*If these are the same classes.*id2label"),
        (["yes", "1"], ("no", "yes"), "row 6: unknown label '1'"),
        (["b", "AA"], ("aa", "Aa", "b"), "row 6: unknown label 'AA'"),
        (["a", "a"], None, "every row has the label 'a'"),
        (["1.0", "2.5"], None, r"row 6: label 2\.5 is not a whole number.*kind regression"),
        (["1.0", "-1.0"], None, r"row 6: label -1\.0: .*unlabelled"),
        (["1.0", "1"], None, "every row has the label '1'"),
        ([1.0, 2.5], ("0", "1"), r"row 6: label 2\.5 is not a whole number"),
        (["1.0", "2.0"], ("0.0", "1.0"), r"row 6: unknown label '2\.0'; the head has '0\.0', '1\.0'\."),
        ([1, 2.5], None, r"row 6: label 2\.5 is not a whole number.*kind regression"),
        ([1.0, 2.0], ("no", "yes"), r"row 6: unknown label '2\.0'; the head has 'no', 'yes', or 0 to 1"),
        ([1.0, 0.5], ("no", "yes"), r"row 6: label 0\.5 is not a whole number"),
        ([float("inf"), 1], None, "label inf is not a whole number"),
        (["2", "0,5", "NA"], None, "row 6: label 0,5 seems to be a number with a decimal comma.*a point, as 0.5"),
        (["1,0", "2,0"], ("no", "yes"), "row 5: label 1,0 seems to be a number with a decimal comma"),
    ],
)
def test_bad_labels(labels, names, message):
    if message is None:
        assert encode_labels(rows_of(labels), names)[1] == ("-1", "a")
        return
    with pytest.raises(InputError, match=message):
        encode_labels(rows_of(labels), names)


MISSING = ("NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "none", r"\N", "<NA>", "#N/A")


@pytest.mark.parametrize("spelling", [*MISSING, float("nan")])
def test_missing_values_among_numbers(spelling):
    told = rf"file\.csv, row 6: the (label|target) '{re.escape(str(spelling))}' reads like a missing value; 2 rows have"
    for labels in (["0", spelling, "1", spelling], [0, spelling, 1.0, spelling], ["0.5", spelling, "1", spelling]):
        for names in (None, ("0", "1"), ("no", "yes")):
            with pytest.raises(InputError, match=told):
                encode_labels(rows_of(labels), names)
        with pytest.raises(InputError, match=told):
            encode_targets(rows_of(labels))


def test_missing_values_among_names():
    labels = rows_of(["yes", "None", "no", "None", "NA"])
    assert encode_labels(labels)[1] == ("NA", "None", "no", "yes")
    told = "the label '{}', which reads like a missing value"
    assert label_notes(labels, ("NA", "None", "no", "yes"), given=False) == [
        f"1 row has {told.format('NA')}", f"2 rows have {told.format('None')}",
    ]  # fmt: skip
    assert label_notes(labels, ("na", "None", "no", "yes"), given=True) == []
    assert encode_labels(labels, ("na", "none ", "no", "yes"))[0].tolist() == [3, 1, 2, 1, 0]
    with pytest.raises(
        InputError, match="row 6: the label 'None' reads like a missing value; 2 rows have such a label"
    ):
        encode_labels(labels, ("NA", "no", "yes"))
    with pytest.raises(InputError, match="row 5: the label 'NA' reads like a missing value; it is the only such"):
        encode_labels(rows_of(["NA", "no"]), ("no", "yes"))
    with pytest.raises(InputError, match="row 5: the label 'NA' reads like a missing value; 2 rows"):
        encode_labels(rows_of(["NA", "NULL"]))
    assert encode_labels(rows_of(["na", "Null"]))[1] == ("Null", "na")


def test_notes_of_how_labels_were_read():
    assert label_notes(rows_of(["1.0", "0.0"]), ("0", "1"), given=False) == ["labels 1.0 are read as 1"]
    assert label_notes(rows_of(["1", "2.00"]), ("2.0 ", "1.0"), given=True) == ["labels 2.00 are read as 2.0"]
    numbers = "labels are numbers, read as the head's classes: 0 = no, 1 = yes"
    assert label_notes(rows_of([1.0]), ("no", "yes"), given=True) == [numbers, "labels 1.0 are read as 1"]
    for labels, names in ((["1", "0"], ("0", "1")), (["1.0"], ("0.0", "1.0")), (["1.0", "x"], ("1.0", "x"))):
        assert label_notes(rows_of(labels), names, given=True) == []


@pytest.mark.parametrize("names", [None, ("0", "1")])
def test_codes_beside_numbers_with_a_point_are_nobodys_classes(names):
    said = r"row 6: label 01 is written as a code, and others as numbers with a point, such as 1\.0: write all of them"
    with pytest.raises(InputError, match=said):
        encode_labels(rows_of(["1", "01", "1.0", "0"]), names)
    assert class_texts(rows_of(["1", "01", "1.0"])) == ["1", "01", "1.0"], "shown as they stand"
    with pytest.raises(InputError, match=r"label 123456789012345678\.0 is too large to be read exactly"):
        encode_labels(rows_of(["1.0", "123456789012345678.0"]), names)


def test_numbers_only_stand_for_names_where_asked():
    with pytest.raises(InputError, match="unknown label '0'; the head has 'no', 'yes'"):
        encode_labels(rows_of(["0", "1"]), ("no", "yes"), numbers=False)
    assert numbers_for_names(rows_of(["0", "1"]), ("no", "yes"))
    assert not numbers_for_names(rows_of(["0", "1"]), ("LABEL_0", "LABEL_1"))
    assert not numbers_for_names(rows_of(["0", "1"]), ("0", "1"))
    assert not numbers_for_names(rows_of(["no", "1"]), ("no", "yes"))


def test_targets():
    assert encode_targets(rows_of(["1.5", "-2e-1", "3"])).tolist() == np.array([1.5, -0.2, 3], np.float32).tolist()


def test_a_target_with_a_decimal_comma():
    for label in ("0,5", "-1.234,56", ",5", "1,5e3"):
        with pytest.raises(InputError, match=rf"row 6: target '{label}' is not a number; it seems .* decimal comma"):
            encode_targets(rows_of([1, label]))


@pytest.mark.parametrize("label", ["inf", "-Infinity", "1e39", "good", "NAN", float("inf")])
def test_bad_targets(label):
    with pytest.raises(InputError, match=r"file\.csv, row 6: target .*(not a finite|not a number)"):
        encode_targets(rows_of([1, label]))
