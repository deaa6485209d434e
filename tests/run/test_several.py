"""Several original tasks in one run: their union agrees with each alone, and each has its own budget."""

import csv
import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft import models, restore
from fft.core.errors import InputError
from fft.core.network import outputs_of
from fft.core.tree import flatten
from fft.data import TrainBatches, bucket_lengths, joined
from fft.disk.files import plain
from fft.experiment import Data, Experiment, Retention, from_json
from fft.fisher.diagonal import diagonal_fisher
from fft.methods import KL, MAS, OGD, Context, LwF, Replay, StepContext
from fft.report.contract import contract_sentence
from fft.run import selection
from fft.run.watched import ProbeBatches
from fft.tasks import Several
from fft.tasks.classify import Classify
from fft.training.dual import PROBED, Seen, Watch, first_dual
from tests.helpers import tiny_checkpoint
from tests.helpers.language_rows import texts
from tests.helpers.tiny_runs import at_event, events, fail, fft, outcome, record
from tests.helpers.tiny_tasks import encoded
from tests.helpers.toy import Toy, max_difference, toy_batch, toy_params

MODEL = Toy()
NARROW, WIDE = Classify("narrow", ("a", "b")), Classify("wide", ("a", "b", "c", "d"))
BOTH = Several("narrow, wide", WIDE.labels, tasks=(NARROW, WIDE))
BASE = toy_params(heads={"narrow": 2, "wide": 4, "new": 3})
MOVED = toy_params(1, heads={"narrow": 2, "wide": 4, "new": 3})
PARTS = (toy_batch(3, rows=5, classes=2), toy_batch(4, rows=7, classes=4, filler=2))
UNION = jax.tree.map(lambda *values: np.concatenate(values), *PARTS)._replace(
    row=np.arange(12, dtype=np.int32), task=np.repeat([0, 1], [5, 7]).astype(np.int32)
)
OUTPUTS = outputs_of(MODEL, MOVED, UNION)


@pytest.fixture(scope="module")
def tiny(dropping):
    """Bases with dropout."""
    return dropping


def apart(function):
    """[12] of the rows of both parts, each part with its own task."""
    return np.concatenate([function(task, part) for task, part in zip(BOTH.tasks, PARTS, strict=True)])


# --- one task out of several ---


def test_the_loss_of_several_tasks_is_that_of_each():
    alone = apart(lambda task, part: task.terms(outputs_of(MODEL, MOVED, part), part))
    np.testing.assert_allclose(BOTH.terms(OUTPUTS, UNION), alone, atol=1e-6)
    assert BOTH.heads == ("narrow", "wide") and BOTH.outputs == 4


def test_a_row_is_answered_by_its_own_head_and_by_no_class_that_this_lacks():
    logits = BOTH.logits(OUTPUTS, UNION)
    np.testing.assert_array_equal(logits[:5, :2], OUTPUTS.read("narrow", OUTPUTS.pooled)[:5])
    np.testing.assert_array_equal(logits[5:], OUTPUTS.read("wide", OUTPUTS.pooled)[5:])
    labels, weights = BOTH.support(logits)
    assert float(jnp.max(weights[2:, :5])) == 0.0 and np.allclose(jnp.sum(weights, 0), 1.0) and labels.shape == (4, 12)
    drawn = jax.vmap(lambda key: BOTH.sample(key, logits))(jax.random.split(jax.random.key(0), 500))
    assert set(np.unique(drawn[:, :5])) == {0, 1} and set(np.unique(drawn[:, 5:])) == {0, 1, 2, 3}
    right = BOTH.credit(logits, UNION.targets, 1.0)
    alone = apart(lambda task, part: task.credit(task.logits(outputs_of(MODEL, MOVED, part), part), part.targets, 1.0))
    np.testing.assert_array_equal(right, alone)
    expected = [right[:5].sum(), right[5:10].sum()]  # the last two rows are filler
    np.testing.assert_allclose(BOTH.summed(right, UNION), expected, atol=1e-6)
    assert float(NARROW.summed(right, UNION)) == sum(expected)
    np.testing.assert_array_equal(BOTH.summed(jnp.ones(12), UNION), [5, 5])


def test_tasks_that_share_a_head_are_one_head():
    shared = Several("narrow", NARROW.labels, tasks=(NARROW, NARROW))
    rows = UNION._replace(targets=UNION.targets % 2)
    assert shared.heads == ("narrow",)
    np.testing.assert_allclose(shared.terms(OUTPUTS, rows), NARROW.terms(OUTPUTS, rows), atol=1e-6)


def terms(method, stream, task, rows, base_logits):
    now = StepContext(BASE, {"logits": base_logits})
    return method.losses(now, stream, outputs_of(MODEL, MOVED, rows), rows, task)[0]


@pytest.mark.parametrize("method", [KL(strength=0.7, temperature=1.5), Replay(strength=0.3)])
def test_terms_on_original_rows_are_those_of_each_task(method):
    base = BOTH.logits(outputs_of(MODEL, BASE, UNION), UNION)
    own = apart(lambda task, p: terms(method, "original", task, p, task.logits(outputs_of(MODEL, BASE, p), p)))
    np.testing.assert_allclose(terms(method, "original", BOTH, UNION, base), own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "stream"), [(LwF(strength=0.7), "new"), (KL(on="unlabelled"), "unlabelled")])
def test_on_rows_of_no_original_every_head_goes_on_saying_what_it_said(method, stream):
    rows = toy_batch(9, rows=6)
    before = outputs_of(MODEL, BASE, rows)
    each = [terms(method, stream, task, rows, task.logits(before, rows)) for task in BOTH.tasks]
    np.testing.assert_allclose(
        terms(method, stream, BOTH, rows, BOTH.logits(before, rows)), sum(each), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_the_fisher_is_the_mean_over_the_rows_of_each(estimator):
    def fisher(task, rows):
        return diagonal_fisher(
            MODEL, task, BASE, [rows], jax.random.key(0), estimator=estimator, way="vmapped", chunk=3
        ).diagonal

    each = [fisher(task, part) for task, part in zip(BOTH.tasks, PARTS, strict=True)]
    summed = jax.tree.map(lambda a, b: (5 * a + 5 * b) / 10, *each)  # five real rows in each part
    found = fisher(BOTH, UNION)
    assert max_difference(found, summed) < 1e-5 and max_difference(found["heads"]["new"], summed["heads"]["new"]) == 0


def context(task, rows):
    return Context(MODEL, BASE, ("new",), task, lambda n, size: [rows])


def test_importance_and_directions_are_those_of_each():
    each = [MAS().prepare(context(t, part), None) for t, part in zip(BOTH.tasks, PARTS, strict=True)]
    assert not np.any(each[0]["heads"]["wide"]["out"]["kernel"]) and np.any(each[0]["heads"]["narrow"]["out"]["kernel"])
    summed = jax.tree.map(lambda a, b: (5 * a + 5 * b) / 10, *each)
    assert max_difference(MAS().prepare(context(BOTH, UNION), None), summed) < 1e-5
    basis = flatten(OGD(directions=10).prepare(context(BOTH, UNION), None))
    for task, part in zip(BOTH.tasks, PARTS, strict=True):

        def answer(params, task=task, part=part):
            return MODEL.apply(params, part)["logits"][task.name][1, part.targets[1]]

        slope = {path: leaf for path, leaf in flatten(jax.grad(answer)(BASE)).items() if path in basis}
        along = sum(jnp.tensordot(v, slope[path], v.ndim - 1) for path, v in basis.items())
        rest = {path: slope[path] - jnp.tensordot(along, v, 1) for path, v in basis.items()}
        assert max_difference(rest, jax.tree.map(jnp.zeros_like, rest)) < 1e-4


# --- the contract ---


def test_the_worst_of_several_drives_the_multiplier():
    """Against the recursion written with lists, for each task its own discounted mean and its standard error."""
    watch = Watch(BOTH, jnp.zeros(32), margin=(0.01, 0.2), scale=1.0, steps=80)
    wrong = [(0, 14), (1, 2), (16, 0), (0, 0), (0, 6)]  # newly wrong rows, of 16 a task
    dual, log, keep, rate = first_dual(2), 0.0, 1 - 1 / 10, math.log(1e3) / 80
    for step, lost in enumerate(wrong):
        dual = watch.advance(dual, Seen(*map(jnp.float32, (lost, lost, (16, 16)))))
        weights = [keep ** (step - at) for at in range(step + 1)]
        n = 16 * sum(weights)
        means = np.average(np.array(wrong[: step + 1]) / 16, axis=0, weights=weights)
        off = (means - np.array(watch.margin)) / (3 * np.sqrt((means + 1 / n) / n))
        log += rate * min(1.0, max(-1.0, *off))
        assert float(dual.log_strength) == pytest.approx(log, rel=1e-4)


def test_a_probe_holds_rows_of_every_task_and_of_one_what_it_held():
    few, many = encoded([3] * 10), encoded([3 + row % 4 for row in range(100)])
    batches = ProbeBatches([few, many], 0, 20, 0)
    for index in (0, 7):
        batch = batches.batch(index)
        assert np.bincount(batch.task).tolist() == [10, PROBED] and (batch.row == batches.rows(index)).all()
        assert (batch.row[batch.task == 1] >= 10).all()
    assert len(batches) == -(-100 // PROBED)
    seen = np.concatenate([batches.rows(index) for index in range(len(batches))])
    assert set(seen.tolist()) == set(range(110))
    alone = ProbeBatches([many], 5, 20, 0)
    plain = TrainBatches(many, PROBED, 5, bucket_lengths(many.lengths(), steps=20), 0)
    assert all((alone.rows(i) == plain.rows(i)).all() for i in range(9)) and len(alone) == len(plain)


def test_a_probe_of_texts_has_half_of_the_tokens_of_a_step():
    few, many = texts([40] * 10), texts([10] * 100)
    for step_tokens, sizes in ((320, [2, 8]), (10, [1, 1]), (10**6, [10, PROBED])):
        batch = ProbeBatches([few, many], 0, 20, 0, step_tokens).batch(0)
        assert np.bincount(batch.task).tolist() == sizes


def test_rows_keep_their_task_where_they_are_taken_from():
    rows = joined([encoded([3, 4]), encoded([5])])
    assert rows.task.tolist() == [0, 0, 1] and rows.take([2, 0]).task.tolist() == [1, 0]
    assert joined([encoded([3])]).task is None


def test_a_point_is_within_where_every_task_is():
    def judge(params, tasks):
        x = float(params["x"])
        scores = {"original": 0.9 - 0.1 * x, "original_2": 0.8 - 0.02 * x, "new": x}
        return {task: scores[task] for task in tasks}

    base, trained = {"x": jnp.float32(0.0), "heads": {}}, {"x": jnp.float32(1.0), "heads": {}}
    signs = {"original": 1, "original_2": 1, "new": 1}

    def kept(**margins):
        return selection.choose(base, (), judge(base, signs), {8: lambda: trained}, judge, signs, margins)

    chosen = kept(original=0.2, original_2=0.0101)
    assert chosen.point.alpha == 0.5 and chosen.point.drops["original_2"] == pytest.approx(0.01)
    assert kept(original=0.047, original_2=0.0201).point.alpha == 7 / 16
    refused = kept(original=0.2, original_2=0.0001)
    told = plain(selection.contract_record(refused, ["0.2", "0.0001"], {"original": 0.2, "original_2": 0.0001}, 1.0))
    assert not refused.met and "keeps the original_2 drop within 0.0001" in contract_sentence(
        told, dict.fromkeys(("original", "original_2"), "accuracy")
    )


# --- experiments ---

TWO = Experiment("m", Data("n"), (Data("a"), Data("b", name="old")), original_head=("original", "fit"))


def test_several_to_json_and_back():
    watched = Retention(max_drop=("0.1", "2%"))
    for one in (TWO, Experiment("m", Data("n"), Data("a"), retention=Retention(max_drop="0.1"), original_head="x")):
        assert from_json(json.loads(json.dumps(one.to_json()))) == one
    one = Experiment("m", Data("n"), Data("a"), original_head="x").to_json()
    assert one["original"]["source"] == "a" and one["original_head"] == "x" and one["retention"]["max_drop"] is None
    assert Experiment("m", Data("n"), TWO.original, retention=watched).budgets == ("0.1", "2%")
    assert Experiment("m", Data("n"), TWO.original, retention=Retention(max_drop="0.1")).budgets == ("0.1", "0.1")
    assert list(TWO.sources) == ["new", "original", "original_2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"original": (Data("a"), Data("b"), Data("a"))}, "--original names a twice with the same columns"),
        ({"original": (Data("a"), Data("b", kind="regression"))}, "or all be answers, and b is regression"),
        ({"original_head": ("x", "y", "z")}, "--original-head has 3 values for 2 original tasks"),
        ({"retention": Retention(max_drop=("0.1", "0.2", "0.3"))}, "--max-drop has 3 values for 2 original tasks"),
    ],
)
def test_originals_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Experiment(**{"model": "m", "new": Data("n"), "original": (Data("a"), Data("b"))} | settings)


def test_one_file_may_hold_two_tasks():
    assert len(Experiment("m", Data("n"), (Data("a"), Data("a", label="topic"))).original) == 2


# --- runs ---

SHORT = ("--steps", 12, "--batch-size", 16, "--lr", 1e-2, "--eval-every", 4, "--json")


@pytest.fixture(scope="module")
def files(tiny):
    """Another domain of the original task, and a task of its own with a column of another name."""
    found = tiny_checkpoint.sentences(240, 7)
    older = tiny_checkpoint.write_csv(
        tiny / "older.csv", ("text", "label"), [(text, tiny_checkpoint.LABELS[f > 0]) for text, f, _ in found]
    )
    houses = [(text, "house" if "house" in text else "none") for text, _, _ in tiny_checkpoint.sentences(240, 8)]
    return tiny / "original.csv", older, tiny_checkpoint.write_csv(tiny / "house.csv", ("text", "what"), houses)


def tuned(tiny, out, originals, *flags, new="new.csv"):
    base = ("--model", tiny / "bert", "--new", tiny / new, "--out", out)
    return fft("tune", *base, "--original", *originals, *SHORT, *flags)


HELD = (
    *("--original-head", "original", "original", "fit", "--original.label", "label", "label", "what"),
    *("--max-drop", "0.1", "0.2", "80%", "--method", "ewc+kl", "--ewc.samples", 64),
)


@pytest.fixture(scope="module")
def whole(tiny, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("several") / "run"
    return tuned(tiny, out, files, *HELD), out


def test_each_original_has_its_scores_its_budget_and_its_verdict(whole, files):
    answer, out = whole
    found = record(out)
    names = ["original", "original_2", "original_3"]
    assert answer.code in (0, 4) and answer.json == found, answer.err
    assert list(found["data"]) == ["new", *names] and list(found["verdicts"]) == names
    assert [found["data"][name]["head"] for name in names] == ["original", "original", "original_2"]
    assert all(found["history"][0][name] > 0.6 and found[name]["n"] > 10 for name in names)
    margins, contract = [found["verdicts"][name]["tolerance"] for name in names], found["contract"]
    assert margins[:2] == [0.1, 0.2] and 0.6 < margins[2] < 0.8 and contract["max_drop"] == ["0.1", "0.2", "80%"]
    assert list(contract["margins"].values()) == margins and set(contract["kept"]["drops"]) == set(names)
    assert found["verdict"] in found["verdicts"].values()
    steps = [event for event in events(out) if event["event"] == "step"]
    assert {"drop", "drop_2", "drop_3", "strength"} <= steps[0].keys()
    assert all(name in answer.err for name in names) and answer.err.count("accepted is") == 3
    page = (out / "report.html").read_text()
    assert all(f"{name} task" in page and f"{name} accuracy" in page for name in names)


def test_killed_a_run_goes_on_to_the_same_bits_and_is_restored_as_its_model(whole, tiny, files, tmp_path):
    _, out = whole
    with at_event("save", 4, partial(fail, KeyboardInterrupt)):
        assert tuned(tiny, tmp_path / "run", files, *HELD).code == 130
    again = tuned(tiny, tmp_path / "run", files, *HELD)
    assert again.code == whole[0].code and "resuming at step 4" in again.err
    assert outcome(tmp_path / "run") == outcome(out)
    kept = models.load(str(out / "model"))
    assert max_difference(restore(out).params, kept.params) <= 1e-6


def test_the_experiment_of_several_is_repeated_from_its_file(whole, tiny):
    _, out = whole
    answer = fft("tune", "--config", out / "experiment.json", "--out", out, "--json")
    assert answer.json == record(out)
    other = fft("tune", "--config", out / "experiment.json", "--out", out, "--max-drop", "0.3")
    assert other.code == 2 and 'retention.max_drop: ["0.1", "0.2", "80%"] -> "0.3"' in other.err


def test_pictures_and_fronts_are_of_the_original_that_is_named(whole, tmp_path):
    out, found = whole[1], record(whole[1])
    for name in ("original", "original_2"):
        answer = fft("compare", out, "--out", tmp_path / name, "--original", name, "--json")
        (front,) = answer.json["fronts"]["methods"].values()
        assert front["points"] == [[found["new"]["after"], found[name]["after"]]]
        assert f"N = {found[name]['n']:,}" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    refused = fft("compare", out, "--original", "original_4")
    assert refused.code == 2 and "has original, original_2, original_3" in refused.err


def test_one_that_is_lost_fails_the_whole_run(tiny, files, tmp_path):
    """The new task swaps the labels of the second original task; the first one has a head of its own."""
    flags = ("--original-head", "original", "fit", "--original.label", "label", "what", "--head", "shared")
    flags += ("--method", "full", "--steps", 60, "--eval-every", 20, "--keep", "latest", "--tolerance", 0.3)
    answer = tuned(tiny, tmp_path / "run", (files[1], files[2]), *flags, new="opposite.csv")
    found = record(tmp_path / "run")
    outcomes = {name: verdict["outcome"] for name, verdict in found["verdicts"].items()}
    assert answer.code == 1 and outcomes["original"] == "fail" == found["verdict"]["outcome"], answer.err
    assert outcomes["original_2"] != "fail" and found["crossover"] is not None
    kept = found["history"][-1]
    lost = found["history"][0]["original"] - kept["original"] - 0.3
    more = max(0.0, found["history"][0]["original_2"] - kept["original_2"] - 0.3)
    assert kept["combined"] == pytest.approx(kept["new"] - lost - more)


def test_rows_of_one_original_that_another_is_scored_on_are_not_trained_on(tiny, files, tmp_path):
    rows = list(csv.reader(files[0].open(encoding="utf-8")))
    held = tiny_checkpoint.write_csv(tmp_path / "held.csv", rows[0], rows[1:31])
    flags = ("--original.test", "None", held, "--steps", 1, "--method", "replay")
    answer = tuned(tiny, tmp_path / "run", files[:2], *flags)
    assert " training rows of 'original' are scored in 'original_2'; they are not trained on" in answer.err, answer.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--original-head", "original", "third"), "--original-head third: the checkpoint's heads are: original"),
        (("--max-drop", "0.1", "0.2", "0.3"), "--max-drop has 3 values for 2 original tasks"),
        (("--max-drop", "0.2", "0.0001"), "it takes at least 10000 of them to see 0.0001"),
        (("--max-drop", "0.2", "1"), "so nothing would fail"),
        (("--original.kind", "classification", "regression"), "must all be classification"),
        (
            ("--original.text", "a", "b", "c"),
            "--original.text has 3 values for 2 sources: give one for all, or one each",
        ),
    ],
)
def test_wrong_usage_of_several_is_told(tiny, files, tmp_path, flags, message):
    answer = tuned(tiny, tmp_path / "run", files[:2], *flags)
    assert answer.code == 2 and message in answer.err, answer.err
    assert not (tmp_path / "run").exists()


def test_the_same_source_twice_is_refused(tiny, files, tmp_path):
    answer = tuned(tiny, tmp_path / "run", (files[0], files[0]))
    assert answer.code == 2 and "twice with the same columns" in answer.err
