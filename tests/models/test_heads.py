"""The heads in config.json: names, numbers and kinds that contradict each other are refused."""

import pytest

from fft.core.errors import InputError
from fft.models import FAMILIES, Head
from fft.models.files.heads import alike, classifier_of, label_fields

NAMED = {"id2label": {"0": "negative", "1": "positive"}}


def head_of(**raw):
    return classifier_of(raw, FAMILIES["bert"], "config.json")


@pytest.mark.parametrize(
    "numbers",
    [
        None,
        {},
        {"negative": 0, "positive": 1},
        {"negative": "0", "positive": "1"},
        {"positive": 1},
        {"negative ": 0, " positive": 1},
        {"LABEL_0": 0, "LABEL_1": 1},
        {"LABEL_1": 0, "LABEL_0": 1},
        {"negative": 0, "positive": 1, "neutral": 2},
    ],
)
def test_a_label2id_that_does_not_contradict_changes_nothing(numbers):
    assert head_of(**NAMED, label2id=numbers) == Head("classification", ("negative", "positive"))


@pytest.mark.parametrize(
    ("numbers", "parts"),
    [
        ({"positive": 0, "negative": 1}, ("'negative' is 0, 'positive' is 1", "'negative' is 1, 'positive' is 0")),
        ({"positive": "0", "negative": "1"}, ("in label2id 'negative' is 1, 'positive' is 0",)),
        ({"positive ": 0}, ("in id2label 'positive' is 1, in label2id 'positive' is 0",)),
        ({"negative": 0, "neutral": 1, "positive": 2}, ("in id2label 'positive' is 1, in label2id 'positive' is 2",)),
    ],
)
def test_a_label2id_that_contradicts_is_refused_with_both(numbers, parts):
    with pytest.raises(InputError, match=r"config\.json: id2label and label2id contradict each other") as caught:
        head_of(**NAMED, label2id=numbers)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_left_over_names_are_numbered_by_id2label_alone():
    left = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"positive": 0, "negative": 1}}
    assert head_of(**left).labels == ("LABEL_0", "LABEL_1")
    assert head_of(label2id={"positive": 0, "negative": 1}).labels == ("LABEL_0", "LABEL_1")


def test_blanks_at_the_ends_of_names_are_kept_and_do_not_tell_names_apart():
    head = head_of(id2label={"0": "negative ", "1": "\tpositive"})
    assert head.labels == ("negative ", "\tpositive")
    assert label_fields(head)["label2id"] == {"negative ": 0, "\tpositive": 1}
    with pytest.raises(InputError, match="gives one name to two labels, blanks at the ends aside: 'a ', 'a'; rename"):
        head_of(id2label={"0": "a ", "1": "a"})


def test_heads_are_alike_by_kind_and_labels_in_order():
    head = Head("classification", ("a", "b"))
    assert alike(head, Head("classification", ("a ", "b")))
    assert not alike(head, Head("classification", ("b", "a")))
    assert alike(Head("regression", ()), Head("regression", ())) and not alike(head, Head("regression", ()))


def test_one_output_is_regression_and_the_softmax_of_it_is_refused():
    single = {"id2label": {"0": "score"}}
    assert head_of(**single) == head_of(**single, problem_type="regression") == Head("regression", ())
    with pytest.raises(InputError, match=r"with 1 label.* is not supported: .*its loss would always be 0; expected"):
        head_of(**single, problem_type="single_label_classification")
    with pytest.raises(InputError, match=r"'regression' with 2 label\(s\) is not supported; expected"):
        head_of(problem_type="regression")
