"""Which heads a run uses, and the heads that it creates and saves."""

import jax
import numpy as np
import pytest

from fft import models
from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.disk.artefact import load_artefact
from fft.experiment import Data, Experiment
from fft.run.accept import requested_heads
from fft.run.heads import HeadNames, abstract_heads, fitting_note, fresh_heads, load_heads, make_heads
from fft.tasks import Classify, Regress

NEW, ORIGINAL = Data("new.csv"), Data("original.csv")
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def bert(tiny):
    return models.load(tiny / "bert")


@pytest.fixture(scope="module")
def bare(tiny):
    return models.load(tiny / "bare")


def names(checkpoint, new=NEW, original=ORIGINAL, **settings):
    return requested_heads(checkpoint, Experiment("model", new, original, **settings))


def renamed(checkpoint, *heads):
    """Return the checkpoint with its one head under other names."""
    (head,), (tree,) = checkpoint.heads.values(), checkpoint.params["heads"].values()
    params = checkpoint.params | {"heads": dict.fromkeys(heads, tree)}
    return checkpoint._replace(heads=dict.fromkeys(heads, head), params=params, primary=heads[0])


# --- names ---


def test_the_classifier_is_the_originals_head_and_the_new_task_gets_its_own(bert):
    assert names(bert) == HeadNames(("original",), "new", False)
    assert names(bert, head="shared") == HeadNames(("original",), "original", True)
    assert names(bert, original=None) == HeadNames((), "new", False)
    assert names(bert, original=None, head="shared") == HeadNames((), "original", True)
    two = renamed(bert, "first", "second")
    assert names(two, original=None, head="shared", original_head="second") == HeadNames((), "second", True)


def test_heads_can_be_named(bert):
    assert names(bert, new=Data("n", name="animals")) == HeadNames(("original",), "animals", False)
    two = renamed(bert, "first", "second")
    assert names(two, original_head="second") == HeadNames(("second",), "new", False)
    assert names(two) == HeadNames(("first",), "new", False)


def test_a_taken_default_name_is_numbered(bert):
    assert names(renamed(bert, "new")) == HeadNames(("new",), "new_2", False)
    assert names(renamed(bert, "new", "new_2"), original=None) == HeadNames((), "new_3", False)
    assert names(bert, original_head="fit") == HeadNames(("original_2",), "new", False)
    targets = Data("targets.csv", kind="regression")
    assert names(bert, original=targets, original_head="fit") == HeadNames(("original_2",), "new", False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"original_head": "third"}, "--original-head third: the checkpoint's heads are: original"),
        ({"new": Data("n", name="original")}, "has a head named 'original' already"),
        ({"new": Data("n", name="a/b")}, "cannot be called 'a/b'"),
        ({"new": Data("n", name="v1.5")}, "cannot be called 'v1.5'"),
        ({"original": Data("o", name=""), "original_head": "fit"}, "cannot be called ''"),
        (
            {"original": Data("o.csv", kind="regression")},
            "o.csv: .* --original.kind classification, or --original-head fit",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused(bert, settings, message):
    with pytest.raises(InputError, match=message):
        names(bert, **settings)


def test_a_base_without_a_head_says_how_to_get_one(bare):
    with pytest.raises(InputError, match=r"no head that could be scored.*--original-head fit"):
        names(bare)
    assert names(bare, original_head="fit") == HeadNames(("original",), "new", False)
    assert names(bare, original=None) == HeadNames((), "new", False)


# --- making and keeping ---


def make(checkpoint, names, tasks, folder, batches=lambda head: (), key=KEY):
    said = []
    return make_heads(checkpoint, names, tasks, batches, key, folder, lambda: None, said.append), said


def test_a_fresh_head_is_drawn_kept_and_read_again(bert, tmp_path):
    tasks = {"original": Classify("original", ("negative", "positive")), "new": Classify("new", ("a", "b", "c"))}
    made, said = make(bert, HeadNames(("original",), "new", False), tasks, tmp_path)
    assert made.primary == "new" and made.heads["new"] == models.Head("classification", ("a", "b", "c")) and not said
    kernel = made.params["heads"]["new"]["out"]["kernel"]
    assert kernel.shape == (16, 3) and 0.005 < float(kernel.std()) < 0.05
    assert not made.params["heads"]["new"]["out"]["bias"].any()
    other, _ = make(bert, HeadNames(("original",), "new", False), tasks, tmp_path, key=jax.random.key(4))
    np.testing.assert_array_equal(other.params["heads"]["new"]["out"]["kernel"], kernel)
    base = flatten(bert.params)
    assert all(flatten(made.params)[path] is leaf for path, leaf in base.items())
    assert fitting_note(tmp_path) == ()


def test_a_shared_head_needs_no_new_one(bert, tmp_path):
    task = {"original": Classify("original", ("negative", "positive"))}
    made, _ = make(bert, HeadNames(("original",), "original", True), task, tmp_path)
    assert made.primary == "original" and flatten(made.params).keys() == flatten(bert.params).keys()
    assert load_artefact(tmp_path)[0] == {} and fresh_heads(tmp_path) == ()


def test_a_base_without_a_head_has_none_to_go_on_with(bare):
    with pytest.raises(InputError, match="goes on with the classifier of the base, and model has none: leave it out"):
        names(bare, original=None, head="shared")


def test_the_original_head_is_fitted_on_frozen_features(bare, tmp_path):
    rng = np.random.default_rng(0)
    label = np.arange(64) % 2
    ids = np.where(label[:, None] == 1, 4, 8) + rng.integers(0, 4, (64, 3))  # four good words, four bad ones
    ids = np.concatenate([np.full((64, 1), 2), ids, np.full((64, 1), 3)], axis=1).astype(np.int32)
    weight, row = np.r_[np.ones(60), np.zeros(4)].astype(np.float32), np.arange(64, dtype=np.int32)
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids), label.astype(np.int32), weight, row)
    tasks = {"original": Classify("original", ("negative", "positive")), "new": Regress("new")}
    made, said = make(bare, HeadNames(("original",), "new", False), tasks, tmp_path, lambda head: [batch])
    assert said == ["fitting the head original for an original task on the frozen base"]
    assert made.heads["original"].labels == ("negative", "positive") and made.heads["new"].kind == "regression"
    logits = made.model.apply(made.params, batch)["logits"]
    assert logits["new"].shape == (64, 1) and (np.argmax(logits["original"], -1) == label).mean() > 0.95
    (note,) = fitting_note(tmp_path)
    assert "60 training rows" in note and "100 steps" in note
    base = flatten(bare.params)
    assert all(np.array_equal(flatten(made.params)[path], leaf) for path, leaf in base.items())


def test_shapes_alone_are_those_of_the_heads_that_will_be_made(bert, tmp_path):
    tasks = {"original": Classify("original", ("negative", "positive")), "new": Classify("new", ("a", "b", "c"))}
    abstract = abstract_heads(bert, "new", tasks)
    made, _ = make(bert, HeadNames(("original",), "new", False), tasks, tmp_path)
    shapes = {path: leaf.shape for path, leaf in flatten(abstract.params).items()}
    assert shapes == {path: leaf.shape for path, leaf in flatten(made.params).items()}
    assert abstract.primary == made.primary == "new"


def test_a_run_that_made_no_heads_yet_cannot_be_read(bert, tmp_path):
    with pytest.raises(InputError, match="not a finished artefact"):
        load_heads(bert, tmp_path)
