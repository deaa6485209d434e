"""The contract: the multiplier by hand, a run under a contract, and which of its points is kept."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft import models, restore
from fft.core.batch import Outputs, States
from fft.core.errors import UndecidableError
from fft.data import TaskData
from fft.disk.artefact import load_artefact
from fft.disk.checkpoint import Checkpoints
from fft.disk.files import plain
from fft.experiment import Optim
from fft.methods import AGEM, EWC, KL, L2SP, Context, Freeze, Full, LoRA, LwF, Replay, chain
from fft.report.contract import contract_sentence
from fft.run import selection
from fft.run.restored import restored, trainable_of
from fft.run.watched import check_budget
from fft.tasks import Language
from fft.tasks.classify import Classify
from fft.tasks.regress import Regress
from fft.training.average import averaged
from fft.training.dual import Seen, Watch, first_dual
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import fft, record, tune
from tests.helpers.tiny_tasks import encoded
from tests.helpers.toy import Toy, max_difference, toy_batch, toy_params

MODEL = Toy()
NEW, ORIGINAL = Classify("new", ("a", "b", "c")), Classify("original", ("a", "b", "c"))


def watch_for(steps):
    """A watch on the eight rows of a toy batch; `stepped` sets the base's credit on them."""
    return Watch(ORIGINAL, jnp.zeros(8), margin=0.01, scale=1.0, steps=steps)


# --- the dual variable ---


@pytest.mark.parametrize(("task", "unit"), [(ORIGINAL, 1.0), (Language(), 0.1)])
def test_the_multiplier_follows_the_running_drop(task, unit):
    """Against the recursion written with lists of rows: discounted mean, its standard error, bounded logarithm."""
    watch = dataclasses.replace(watch_for(steps=80), task=task)
    rng = np.random.default_rng(0)
    steps = [rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0], size=8, p=[0.1, 0.2, 0.2, 0.2, 0.3]) for _ in range(12)]
    dual, log = first_dual(), 0.0
    keep, rate = 1 - 1 / 10, math.log(1e3) / 80
    for step, drops in enumerate(steps):
        dual = watch.advance(dual, Seen(*map(jnp.float32, (drops.sum(), (drops**2).sum(), 8.0))))
        seen = np.concatenate(steps[: step + 1])
        weights = np.concatenate([np.full(8, keep ** (step - at)) for at in range(step + 1)])
        n, mean = weights.sum(), np.average(seen, weights=weights)
        error = math.sqrt((np.average(seen**2, weights=weights) + unit**2 / n) / n)
        log += rate * min(1.0, max(-1.0, (mean - 0.01) / (3 * error)))
        assert float(dual.log_strength) == pytest.approx(log, rel=1e-4)


def test_what_a_step_sees_of_held_out_rows():
    """A filler row does not count, and a drop that is not finite counts as 1."""
    watch, before = watch_for(steps=80), jnp.array([1.0, 0.0, 1.0, math.nan])
    batch = toy_batch(rows=4)._replace(targets=jnp.zeros(4, int), weight=jnp.array([1.0, 1.0, 0.0, 1.0]))
    logits = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    outputs = Outputs(States(logits), lambda head, states: {"original": states}[head])
    assert [float(value) for value in watch.look(outputs, batch, before)] == [1.0, 3.0, 3.0]


def test_credit_is_accuracy_or_what_a_correlation_loses():
    logits = jnp.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert ORIGINAL.credit(logits, jnp.array([1, 1, 1]), 1.0).tolist() == [1.0, 0.0, 1.0]
    rng = np.random.default_rng(0)
    label = rng.normal(size=4000)
    task = Regress("original")
    scale = task.scale(label)

    def score(noise):
        predicted = label + noise * rng.normal(size=4000)  # r^2 = 1 / (1 + noise^2); shrunk, its error is 1 - r^2
        predicted = predicted / (1 + noise**2)
        return np.corrcoef(label, predicted)[0, 1], float(jnp.mean(task.credit(predicted[:, None], label, scale)))

    (r, before), (worse, after) = score(0.3), score(0.5)
    assert before - after == pytest.approx((r**2 - worse**2) / 2, rel=0.02)


def test_what_holds_is_a_penalty_or_a_term():
    assert all(method.adds for method in (EWC(), L2SP(), Replay(), KL(), LwF(), LoRA() + KL()))
    assert not any(method.adds for method in (Full(), LoRA(), chain(Freeze(), LoRA()), AGEM()))
    assert chain(AGEM(), EWC()).adds


# --- in the step ---


def stepped(method, watch, drop_of_base, steps=40, lr=0.05, watching=lambda theta, drop: None):
    """Return base, last state and multipliers of a toy run whose probe has the drop `drop_of_base`."""
    base = toy_params(heads={"original": 3, "new": 3})
    theta = method.init(base, jax.random.key(1))
    multiplier = multipliers(method, theta, MODEL.depth, ("original",))
    tx = make_optimizer(theta, multiplier, Optim(lr=lr, warmup=0.0), steps)
    probe = toy_batch(9)
    if watch:
        now = ORIGINAL.credit(MODEL.apply(base, probe)["logits"]["original"], probe.targets, 1.0)
        watch = dataclasses.replace(watch, before=now + drop_of_base)
    step = make_train_step(MODEL, NEW, method, tx, multiplier, ORIGINAL, watch)
    aux = method.prepare(Context(MODEL, base, ("new",)), jax.random.key(2))
    state, seen = init_state(theta, tx, jax.random.key(3), watched=1 if watch else 0), []
    for i in range(steps):
        batch = {"new": jax.tree.map(lambda x: x[None], toy_batch(i))}
        batch |= {"probe": jax.tree.map(lambda x: x[None], probe)} if watch else {}
        state, metrics = step(state, base, aux, batch)
        seen.append(float(metrics["strength"]) if watch else 1.0)
        watching(jax.tree.map(jnp.copy, state.theta), float(metrics["drop"]) if watch else 0.0)
    return base, state, seen


def test_a_drop_raises_the_multiplier_and_pulls_harder():
    watch = watch_for(steps=40)
    base, held, rising = stepped(L2SP(strength=0.5), watch, 1.0)
    _, loose, falling = stepped(L2SP(strength=0.5), watch, -1.0)
    assert rising[0] == falling[0] == 1.0 and rising[-1] > 100 and falling[-1] < 0.05
    assert max_difference(held.theta["layers"], base["layers"]) < max_difference(loose.theta["layers"], base["layers"])


def test_a_method_that_adds_nothing_is_held_by_smaller_updates():
    watch = watch_for(steps=40)
    base, held, _ = stepped(Full(), watch, 1.0)
    _, free, _ = stepped(Full(), None, 1.0)
    _, loose, _ = stepped(Full(), watch, -1.0)
    moved = [max_difference(state.theta["layers"], base["layers"]) for state in (held, free, loose)]
    assert moved[0] < 0.7 * moved[1]
    assert max_difference(free.theta, loose.theta) < 1e-6, "within the margin the rate is the one that was asked for"


# --- the average ---


def test_the_average_weighs_the_steps_by_rising_powers():
    """Against the plain weighted mean: step i weighs i (i + 1) (i + 2)."""
    thetas = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    average = {"x": jnp.full(4, 7.0)}
    for step, theta in enumerate(thetas):
        average = averaged(average, {"x": jnp.asarray(theta)}, jnp.int32(step))
        i = np.arange(1, step + 2)
        expected = np.average(thetas[: step + 1], axis=0, weights=i * (i + 1) * (i + 2))
        np.testing.assert_allclose(average["x"], expected, atol=1e-6)


def test_the_average_of_a_watched_run_is_what_its_probe_looks_at():
    """The probe's drop is that of the average before the step, not of theta."""
    seen, probe = [], toy_batch(9)
    watch = watch_for(steps=12)
    base, state, _ = stepped(Full(), watch, 0.0, 12, lr=0.3, watching=lambda *each: seen.append(each))

    def right(params):
        logits = MODEL.apply(params, probe)["logits"]["original"]
        return float(jnp.mean(ORIGINAL.credit(logits, probe.targets, 1.0)))

    average, theta, of_theta = jax.tree.map(jnp.copy, base), base, []
    for at, (after, drop) in enumerate(seen):
        assert drop == pytest.approx(right(base) - right(average), abs=1e-6)
        of_theta.append(right(base) - right(theta))
        theta, average = after, averaged(average, after, jnp.int32(at))
    assert not np.allclose(of_theta, [drop for _, drop in seen]), "here the two would give the same drops"
    assert state.result is state.average and max_difference(state.average, average) < 1e-6
    free = stepped(Full(), None, 0.0, steps=2)[1]
    assert free.average is None and free.result is free.theta


# --- which point is kept ---


def judged(original, new):
    """Return judge(params) for a model that is one number x: 0 is the base, 1 the last step."""
    scores = {"original": original, "new": new}
    return lambda params, tasks: {task: scores[task](float(params["x"])) for task in tasks}


def choose(original, new, trained=(1.0,), margin=0.01, signs=None):
    base = {"x": jnp.float32(0.0), "heads": {}}
    steps = {10 * (i + 1): lambda x=x: {"x": jnp.float32(x), "heads": {}} for i, x in enumerate(trained)}
    signs = signs or {"original": 1, "new": 1}
    start = {"original": original(0.0), "new": new(0.0)}
    return selection.choose(base, (), start, steps, judged(original, new), signs, {"original": margin})


def test_the_last_step_is_kept_where_it_is_within_the_budget():
    chosen = choose(lambda x: 0.9 - 0.005 * x, lambda x: 0.5 + 0.4 * x)
    assert chosen.met and (chosen.point.step, chosen.point.alpha) == (10, 1.0) and len(chosen.tried) == 1
    assert chosen.point.drop == pytest.approx(0.005)


@pytest.mark.parametrize("keeps", range(1, 16))
@pytest.mark.parametrize(("power", "most"), [(2, 4), (1, 7)])
def test_otherwise_the_furthest_point_on_the_way_that_is(keeps, power, most):
    chosen = choose(lambda x: 0.9 - 0.01 * (x * 16 / (keeps + 0.5)) ** power, lambda x: 0.5 + 0.4 * x)
    assert chosen.point.alpha == keeps / 16 and float(chosen.params["x"]) == pytest.approx(keeps / 16)
    assert len(chosen.tried) <= most, "the last step, and few where the loss grows as it does about an optimum"
    assert all((point.new is not None) == point.within for point in chosen.tried), "beyond the margin new is not asked"
    assert len({point.alpha for point in chosen.tried}) == len(chosen.tried)


def test_a_loss_that_jumps_about_on_the_way_still_gives_a_point_within():
    chosen = choose(lambda x: 0.9 if int(x * 16 + 0.5) in (0, 3, 5, 8, 11) else 0.8, lambda x: 0.5 + 0.4 * x)
    assert chosen.met and chosen.point.within and chosen.point.alpha in (3 / 16, 5 / 16, 8 / 16, 11 / 16)


def test_an_earlier_step_is_kept_where_it_is_better():
    chosen = choose(
        lambda x: 0.9 if x < 0.45 else 0.8, lambda x: 0.95 if abs(x - 0.43) < 1e-6 else 0.5, trained=(0.43, 1.0)
    )
    assert (chosen.point.step, chosen.point.alpha) == (10, 1.0) and chosen.point.new == 0.95


def test_the_base_is_kept_where_no_point_is_within_and_errors_count_the_other_way():
    chosen = choose(lambda x: 0.9 if x == 0 else 0.7, lambda x: 0.5 + 0.4 * x)
    assert not chosen.met and chosen.point.step == 0 and float(chosen.params["x"]) == 0

    def said_of(chosen):
        record = selection.contract_record(chosen, "0.01", {"original": 0.01}, 1.0)
        return contract_sentence(plain(record), {"original": "accuracy"})

    said = said_of(chosen)
    assert "the contract is not met" in said and "the trained model loses 0.2, 0.19 too much" in said
    idle = choose(lambda x: 0.9, lambda x: 0.5)
    assert not idle.met and "the trained model is within it and gains nothing" in said_of(idle)
    chosen = choose(lambda x: 1.0 + 0.005 * x, lambda x: 1.0 - 0.4 * x, signs={"original": -1, "new": -1})
    assert chosen.met and chosen.point.new == pytest.approx(0.6) and chosen.point.drop == pytest.approx(0.005)


def test_a_fresh_head_is_not_taken_back():
    base = {"x": jnp.float32(0.0), "heads": {"new": {"w": jnp.float32(5.0)}}}
    trained = {"x": jnp.float32(1.0), "heads": {"new": {"w": jnp.float32(9.0)}}}
    judge = judged(lambda x: 0.9 - 0.05 * x, lambda x: x)
    signs, margins = {"original": 1, "new": 1}, {"original": 0.01}
    chosen = selection.choose(base, ("new",), {"original": 0.9}, {7: lambda: trained}, judge, signs, margins)
    assert chosen.point.alpha < 1 and float(chosen.params["heads"]["new"]["w"]) == 9.0


# --- a whole run ---

STEPS = 12
SHORT = ("--steps", STEPS, "--batch-size", 16, "--lr", 1e-2, "--eval-every", 4)


def test_a_run_under_a_contract(tiny, tmp_path):
    answer = tune(tiny, tmp_path / "run", *SHORT, "--method", "kl", "--max-drop", "0.2")
    assert answer.code in (0, 4), answer.err
    found = record(tmp_path / "run")
    assert found["verdict"]["tolerance"] == found["contract"]["margin"] == 0.2 and found["contract"]["met"]
    assert "kept under the contract: step" in answer.err and found["notes"][-1] == contract_sentence(
        found["contract"], {"original": "accuracy"}
    )
    base = record(tmp_path / "run")["history"][0]
    again = tune(tiny, tmp_path / "share", *SHORT, "--method", "kl", "--max-drop", "20%")
    assert again.code in (0, 4), again.err
    told = record(tmp_path / "share")
    assert told["history"][0] | {"seconds": 0} == base | {"seconds": 0}
    assert told["contract"]["margin"] == pytest.approx(0.2 * load_artefact(tmp_path / "share" / "watched")[1]["score"])


def same_as_the_model(run):
    """Whether `restore` loads the weights of RUN/model."""
    found, kept = restore(run), models.load(str(run / "model"))
    return max_difference(found.params, kept.params) <= 1e-6


@pytest.mark.parametrize(("loss", "alpha"), [(0.0, 1.0), (0.19, 0.25)])
def test_a_run_is_restored_as_its_model(tiny, tmp_path, monkeypatch, loss, alpha):
    """The last step, or a point between it and the base if it loses .19 where .05 is allowed."""
    seen = []

    def judge(scorer, params, tasks):
        kernel, base = (tree["layers"]["0"]["attention"]["query"]["kernel"] for tree in (params, scorer.job.base))
        seen.append(kernel)  # the last step's first
        part = float(jnp.linalg.norm(kernel - base) / jnp.linalg.norm(seen[0] - base))
        scores = {"original": 1 - loss * part, "new": 0.5 + part}
        return {task: scores[task] for task in tasks}

    monkeypatch.setattr("fft.run.scoring.Scorer.judge", judge)
    flags = (*SHORT, "--method", "lora", "--max-drop", "0.05", "--checkpoints", "keep")
    answer = tune(tiny, tmp_path / "run", *flags)
    assert record(tmp_path / "run")["contract"]["kept"]["alpha"] == alpha, answer.err
    assert same_as_the_model(tmp_path / "run")
    if alpha == 1:
        left, model = restored(tmp_path / "run"), models.load(str(tmp_path / "run" / "model")).params
        like = jax.eval_shape(trainable_of(left.experiment, left.checkpoint).init)
        state = Checkpoints(tmp_path / "run" / "checkpoints").restore(like, record(tmp_path / "run")["kept_step"]).tree
        of_average, of_last = (
            max_difference(left.experiment.method.merge(left.checkpoint.params, theta), model)
            for theta in (state.average, state.theta)
        )
        assert of_average <= 1e-6 < 1e-3 < of_last, "what is kept is the average of the weights"
    Checkpoints(tmp_path / "run" / "checkpoints").reduce({STEPS})
    assert same_as_the_model(tmp_path / "run"), "a finished run needs the average alone"
    exported = fft("export", tmp_path / "run", "--to", "peft", "--out", tmp_path / "adapter")
    assert exported.code == (0 if alpha == 1 else 2)
    assert alpha == 1 or "keeps a point 0.25 of the way from the base to its last step" in exported.err


def test_a_contract_that_cannot_be_kept_ends_with_1(tiny, tmp_path):
    """The same texts with opposite labels on the shared head: the new score is gained at the original's expense."""
    flags = (*SHORT, "--method", "full", "--head", "shared", "--max-drop", "0.05")
    answer = tune(tiny, tmp_path / "run", *flags, new="opposite.csv")
    assert answer.code == 1, answer.err
    found = record(tmp_path / "run")
    assert not found["contract"]["met"] and found["kept_step"] == 0
    assert "the contract is not met" in answer.err and found["original"]["change"] == 0
    assert same_as_the_model(tmp_path / "run")
    exported = fft("export", tmp_path / "run", "--out", tmp_path / "out")
    assert exported.code == 0 and "kept the base" in exported.err + exported.out


def test_a_contract_on_rows_that_show_no_drop_is_undecided_before_it_begins(tiny, tmp_path):
    good = [(text, "positive") for text, feeling, _ in tiny_checkpoint.sentences(60, 9) if feeling > 0]
    held = tiny_checkpoint.write_csv(tmp_path / "held.csv", ("text", "label"), good)
    flags = ("--max-drop", "0.2", "--original-metric", "mcc", "--original-validation", held)
    answer = tune(tiny, tmp_path / "run", *SHORT, *flags)
    assert answer.code == 4 and "are of one class: mcc is 0 by definition" in answer.err, answer.err
    assert not (tmp_path / "run").exists()


def test_targets_that_do_not_vary_give_a_contract_no_scale():
    rows = encoded([3] * 40, np.full(40, -1.0, np.float32))
    for metric in ("pearson", "rmse"):
        data = TaskData(Regress("original", metric), {"validation": rows}, (), 0, {}, (), {}, kind="regression")
        with pytest.raises(UndecidableError, match="all 40 rows have the target -1"):
            check_budget("0.1", data)


@pytest.mark.parametrize(
    ("flags", "original", "message"),
    [
        (("--max-drop", "0"), "original.csv", "expected a number above 0"),
        (("--max-drop", "-1%"), "original.csv", "expected a number above 0"),
        (("--max-drop", "some"), "original.csv", "expected a number above 0"),
        (("--max-drop", "1"), "original.csv", "so nothing would fail"),
        (("--max-drop", "0.2"), None, "--max-drop needs data of the original task: give --original"),
        (("--max-drop", "0.0001"), "original.csv", "it takes at least 10000 of them to see 0.0001"),
        (("--max-drop", "0.2", "--keep", "latest"), "original.csv", "--keep latest ignores what was lost"),
    ],
)
def test_contracts_that_say_nothing_are_refused(tiny, tmp_path, flags, original, message):
    answer = tune(tiny, tmp_path / "run", *SHORT, *flags, original=original)
    assert answer.code == 2 and message in answer.err, answer.err
    assert not (tmp_path / "run").exists()
