"""`fft repair`: what is chosen against plain loops, what is written, what is refused."""

import copy
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fft import models
from fft.after import repair as module
from fft.after.candidates import STEPS, Candidate
from fft.after.mergeable import load_sides
from fft.after.repair import repair
from fft.after.settings import RepairSettings
from fft.core.tree import flatten
from fft.evaluate.heldout import HeldOut
from fft.experiment import Data
from fft.fisher.information import load_fisher
from fft.fisher.storage import unpack
from fft.merging import formulas
from fft.models.identity import base_sha256
from fft.report.drawing import svg
from fft.report.repaired import chart, headline, page, tuned_sentence
from tests.helpers import tiny_checkpoint
from tests.helpers.outline import Outline
from tests.helpers.tiny_runs import fft, record, refused, tune

DEPTHS = tiny_checkpoint.BLOCKS + 2
ALSO = ("--also", "layers", "ties", "dare")
HOSTILE = "<script>alert('&amp;\"x')</script>"


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory):
    """A run that learned the new task and lost much of the original one."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    answer = tune(tiny, out, "--steps", 60, "--batch-size", 16, "--lr", 1e-2, "--keep", "latest")
    assert answer.code in (1, 4) and record(out)["verdict"]["drop"] > 0.1
    return out


def flags(tiny, out, new="new.csv", original="original.csv"):
    return ("--original", tiny / original, "--new", tiny / new, "--out", out)


@pytest.fixture(scope="module")
def fisher(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("fisher") / "f"
    answer = fft("fisher", "--model", tiny / "bert", "--original", tiny / "original.csv", "--out", out, "--samples", 64)
    assert answer.code == 0
    return out


@pytest.fixture(scope="module")
def repaired(tiny, tuned, fisher, tmp_path_factory):
    """A repair with every kind of candidate, and its answer."""
    out = tmp_path_factory.mktemp("repaired") / "out"
    more = ("--max-drop", 0.05, "--fisher", fisher, *ALSO, "--sweeps", 2, "--json")
    return fft("repair", tiny / "bert", tuned, *flags(tiny, out), *more), out


def told(out):
    return json.loads((out / "repair.json").read_text())


def held_out(tiny, tmp_path, role):
    """CSV files of a repair's validation or test rows."""
    from fft.data.rows import Columns
    from fft.data.splits import make_splits

    files = {}
    for name in ("original", "new"):
        rows = make_splits(str(tiny / f"{name}.csv"), Columns("text", None, "label")).rows[role]
        lines = list(zip(rows.texts, rows.labels, strict=True))
        files[name] = tiny_checkpoint.write_csv(tmp_path / f"{name}-{role}.csv", ("text", "label"), lines)
    return files


# --- the figures ---


def test_one_alpha_by_saved_interpolations_and_fft_eval(tiny, tuned, repaired, tmp_path):
    """Models between the two as checkpoints of their own, scored by the command."""
    base, after = models.load(tiny / "bert"), models.load(tuned / "model")
    files, found = held_out(tiny, tmp_path, "validation"), told(repaired[1])
    line = [one for one in found["candidates"] if one["kind"] == "alpha"]
    alphas = [one["settings"]["alpha"] for one in line]
    assert alphas[:2] == [0.0, 1.0] and set(alphas[2:]) <= set(STEPS) and 3 <= len(alphas) <= 8
    for one in (line[1], line[2], line[-1]):
        alpha, params = one["settings"]["alpha"], dict(flatten(after.params))
        for path, old in flatten(base.params).items():
            params[path] = old + alpha * (params[path] - old)
        folder = tmp_path / f"alpha-{alpha}"
        models.save(after._replace(params=formulas.unflatten(params)), folder)
        for name in ("original", "new"):
            answer = fft("eval", "--model", folder, "--task", files[name], "--head", name, "--json")
            assert one[name] in (answer.json["score"], None if name == "new" and not one["within"] else ()), alpha


def test_the_choice_is_the_best_new_score_within_the_budget(repaired):
    answer, out = repaired
    found = told(out)
    base = found["candidates"][0]
    for one in found["candidates"]:
        assert one["drop"] == pytest.approx(base["original"] - one["original"])
        scored = one["within"] or one is found["candidates"][1]
        assert (one["new"] is None, one["gain"] is None) == (not scored, not scored)
        assert not scored or one["gain"] == pytest.approx(one["new"] - base["new"])
        assert one["within"] == (one["drop"] <= 0.05 + 1e-9)
    within = [one for one in found["candidates"] if one["within"]]
    chosen = found["candidates"][found["chosen"]]
    assert chosen in within and chosen["new"] == max(one["new"] for one in within) > base["new"]
    assert chosen["drop"] == min(one["drop"] for one in within if one["new"] == chosen["new"])
    assert answer.code == {"pass": 0, "fail": 1, "undecided": 4}[found["outcome"]]
    assert {k: v for k, v in answer.json.items()} == found
    assert {one["kind"] for one in found["candidates"]} == {"alpha", "layers", "ties", "dare", "fisher"}


def test_the_layers_are_never_worse_than_one_alpha(repaired):
    found = told(repaired[1])["candidates"]
    best = {
        kind: max((one["new"], -one["drop"]) for one in found if one["kind"] in kinds and one["within"])
        for kind, kinds in (("alpha", ("alpha",)), ("layers", ("alpha", "layers")))
    }
    assert best["layers"] >= best["alpha"]
    layers = [one for one in found if one["kind"] == "layers"]
    assert layers and all(len(one["settings"]["alphas"]) == tiny_checkpoint.BLOCKS + 2 for one in layers)


def test_the_verdict_is_of_the_model_on_disk_on_the_test_rows(repaired, tiny, tuned, tmp_path):
    out, files = repaired[1], held_out(tiny, tmp_path, "test")
    found = told(out)
    for name in ("original", "new"):
        after = fft("eval", "--model", out / "model", "--task", files[name], "--head", name, "--json").json
        assert (after["score"], after["n"]) == (found[name]["after"], found[name]["n"])
        tuned_score = fft("eval", "--model", tuned, "--task", files[name], "--head", name, "--json").json["score"]
        assert tuned_score == found["tuned_change"][name]["after"]
    checked = fft("check", tiny / "bert", out / "model", "--original", files["original"], "--max-drop", 0.05, "--json")
    assert checked.json["original"][0]["change"] == found["original"]
    assert checked.json["original"][0]["verdict"] == found["verdict"]
    assert found["given_up"]["before"] == found["tuned_change"]["new"]["after"]
    assert found["tuned_change"]["original"] == record(tuned)["original"], "the rows that fft tune held out"
    assert found["data"]["original"]["splits"]["test"] == record(tuned)["data"]["original"]["splits"]["test"]


def test_the_model_is_the_merge_that_was_chosen_with_the_heads_of_both(repaired, tiny, tuned, fisher):
    found, base, after = told(repaired[1]), models.load(tiny / "bert").params, models.load(tuned / "model").params
    saved = models.load(repaired[1] / "model")
    assert saved.primary == "new" and set(saved.heads) == {"original", "new"}
    chosen = found["candidates"][found["chosen"]]
    settings = chosen["settings"]
    if chosen["kind"] == "ties":
        vector = formulas.trimmed(formulas.task_vector(base, after), settings["density"])
        expected = formulas.add_vectors(base, [after], [vector], settings["scale"])
    elif chosen["kind"] == "fisher":
        found, _ = load_fisher(fisher, base, base_sha256(models.load(tiny / "bert")))
        kept = flatten(unpack(found))
        mean = sum(float(leaf.sum()) for leaf in kept.values()) / sum(leaf.size for leaf in kept.values())
        expected = dict(flatten(after))
        for path, leaf in flatten(base).items():
            share = settings["weight"] * kept.get(path, np.zeros_like(leaf)) / mean
            expected[path] = (share * leaf + expected[path]) / (share + 1)
        expected = formulas.unflatten(expected)
    else:
        assert chosen["kind"] in ("alpha", "layers")
        alphas = list(settings["alphas"].values()) if "alphas" in settings else [settings["alpha"]] * DEPTHS
        expected = formulas.interpolate_layers(base, after, np.float32(alphas), tiny_checkpoint.BLOCKS)
    for path, leaf in flatten(saved.params).items():
        np.testing.assert_allclose(leaf, flatten(expected)[path], atol=1e-6, err_msg=path)
    for leaf, mine in zip(*(jax.tree.leaves(tree["heads"]["new"]) for tree in (saved.params, after)), strict=True):
        np.testing.assert_array_equal(leaf, mine, "the fresh head is the tuned model's")


def test_every_model_is_scored_by_one_program_a_length(tiny, tuned):
    sides = load_sides(
        RepairSettings(str(tiny / "bert"), str(tuned), Data(str(tiny / "original.csv")), Data(str(tiny / "mixed.csv")))
    )
    traces = []

    def states(params, batch, **asked):
        traces.append(batch.ids.shape)
        return sides.tuned.model.states(params, batch, **asked)

    rows = HeldOut(sides.tuned.model._replace(states=states), sides.data)
    for alpha in STEPS[::4]:
        rows.line(sides.base, sides.tuned.params, [alpha] * 4)
    rows.line(sides.base, sides.tuned.params, [0.1, 0.9, 0.3, 1.0])
    rows.scores(sides.tuned.params)
    lengths = {shape[1] for shape in traces}
    assert len(lengths) > 1, "rows of more than one length"
    assert len(traces) == len(lengths), "one trace a length, whatever the weights and the task"
    rows.line(sides.base, sides.tuned.params, [0.5] * 4, "test")
    assert len(traces) == len({shape[1] for shape in traces})
    assert rows._of_heads.__wrapped__._cache_size() == len(traces)


def test_a_higher_rmse_is_a_drop_and_what_is_accepted_lies_above_the_base(repaired):
    scores = {"base": {"original": 1.0, "new": 0.5}, "tuned": {"original": 1.5, "new": 0.9}}
    scores |= {"near": {"original": 1.2, "new": 0.7}, "far": {"original": 1.4, "new": 0.8}}
    data = {name: SimpleNamespace(task=SimpleNamespace(metric=m)) for name, m in (("original", "rmse"), ("new", "mcc"))}

    def scored(params, names):
        return {name: scores[params][name] for name in names}

    rows = SimpleNamespace(data=data, scores=scored, blend=lambda base, tuned, alphas: tuned if alphas[0] else base)
    sides = SimpleNamespace(base="base", tuned=SimpleNamespace(params="tuned", model=SimpleNamespace(depth=1)))
    settings = SimpleNamespace(max_drop="25%")
    search = module.Search(settings, sides, rows, lambda *_: None)
    assert search.margin == 0.25 and [one.drop for one in search.tried] == [0.0, 0.5]
    assert search.tried[1].gain == pytest.approx(0.4), "the tuned model is scored on both tasks whatever it lost"
    near, far = (search.score(Candidate("alpha", {}, lambda name=name: name)) for name in ("near", "far"))
    assert near[-2:] == (pytest.approx(0.2), pytest.approx(0.2)) and far[3:] == (None, pytest.approx(0.4), None)
    found = told(repaired[1])
    for metric, sign in (("accuracy", 1), ("rmse", -1)):
        found["tuned_change"]["original"]["metric"] = metric
        (accepted,) = chart(found).to_dict()["layer"][0]["data"]["values"]
        assert accepted["original"] == pytest.approx(found["candidates"][0]["original"] - sign * 0.05)


# --- the ends ---


def test_where_nothing_beats_the_base_it_says_by_how_much_and_writes_no_model(tiny, tmp_path):
    """The original's own head learns the opposite labels: the new score is gained at the original's expense."""
    run = tmp_path / "opposite"
    more = ("--steps", 40, "--batch-size", 16, "--lr", 1e-2, "--keep", "latest", "--head", "shared")
    tune(tiny, run, *more, new="opposite.csv")
    answer = fft("repair", tiny / "bert", run, *flags(tiny, tmp_path / "out", "opposite.csv"), "--also", "--json")
    found = told(tmp_path / "out")
    assert answer.code == 1 and answer.json == found and found["outcome"] == "nothing"
    assert found["chosen"] is None and found["verdict"] is None and found["heads"]["shared"]
    assert not (tmp_path / "out" / "model").exists() and (tmp_path / "out" / "front.png").is_file()
    near = found["candidates"][found["nearest"]]
    assert (near["gain"] is None or near["gain"] > 0) and not near["within"]
    over = f"is {near['drop'] - 0.01:.4f} too much"
    assert "nothing better than the base was found" in answer.err and over in answer.err
    assert over in (tmp_path / "out" / "report.html").read_text()
    assert {one["kind"] for one in found["candidates"]} == {"alpha"}, "--also alone tries nothing else"


def test_a_tuned_model_that_lost_nothing_is_kept_whole(tiny, tmp_path):
    out = tmp_path / "run"
    assert (
        tune(
            tiny,
            out,
            "--steps",
            8,
            "--batch-size",
            16,
            "--lr",
            1e-2,
            "--method",
            "freeze",
            "--freeze.pattern",
            "(embed|layers|pooler).*",
        ).code
        == 0
    )
    answer = fft("repair", tiny / "bert", out, *flags(tiny, tmp_path / "out"), "--json")
    found = answer.json
    assert found["outcome"] in ("nothing", "pass", "undecided")
    assert all(one["drop"] == 0 for one in found["candidates"]), "the body did not move"
    assert all(one["gain"] == 0 for one in found["candidates"]), "and the fresh head belongs to every candidate"
    assert not any(one["kind"] == "layers" for one in found["candidates"]), "no layer moved"


def test_a_classifier_of_the_same_name_and_other_labels_is_a_head_of_its_own(tiny, tuned, tmp_path):
    """A checkpoint of another program has one unnamed classifier, which is then called `original`."""
    foreign = tmp_path / "foreign"
    shutil.copytree(tuned / "model", foreign)
    for name in ("fft_heads.json", "fft_heads.safetensors"):
        (foreign / name).unlink()
    answer = fft("repair", tiny / "bert", foreign, *flags(tiny, tmp_path / "out"), "--also", "--json")
    ours = fft("repair", tiny / "bert", tuned, *flags(tiny, tmp_path / "ours"), "--also", "--json")
    assert answer.json["heads"] == {"original": "original", "new": "new", "shared": False}
    same = ("candidates", "chosen", "original", "new", "verdict", "outcome")
    assert all(answer.json[name] == ours.json[name] for name in same)
    assert (answer.code, models.load(tmp_path / "out" / "model").heads.keys()) == (ours.code, {"original", "new"})


def test_a_seed_gives_the_same_repair_again(tiny, tuned, repaired, tmp_path, fisher):
    more = ("--max-drop", 0.05, "--fisher", fisher, *ALSO, "--sweeps", 2, "--json")
    again = fft("repair", tiny / "bert", tuned, *flags(tiny, tmp_path / "out"), *more).json
    first = repaired[0].json
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in first.items() if k != "seconds"}


# --- what is written ---


def test_the_folder_holds_what_the_documentation_says(repaired):
    names = {path.name for path in repaired[1].iterdir()}
    assert names == {"model", "repair.json", "report.html", "front.svg", "front.png", "lock"}
    err = repaired[0].err
    for word in (
        "one α for all layers",
        "candidates to try, about",
        "chosen of",
        "the tuned model's original accuracy",
        "report:",
    ):
        assert word in err


def test_the_page_is_balanced_escaped_and_loads_nothing(repaired):
    found = told(repaired[1])
    found["base"]["folder"] = found["notes"] = HOSTILE
    found["notes"] = [HOSTILE]
    found["data"]["new"]["source"] = HOSTILE
    text = page(found, svg(chart(found)))
    outline = Outline(text)
    assert not outline.open and not outline.loads and "script" not in outline.tags
    assert HOSTILE not in text and HOSTILE in "".join(outline.words)
    assert text.count("<tr>") > len(found["candidates"]) and "<svg" in text
    assert (repaired[1] / "report.html").read_text().startswith("<!doctype html>")


def test_scores_that_are_not_finite_are_a_line_in_the_table_and_no_point(repaired):
    found = told(repaired[1])
    found["candidates"][5] |= {"new": None, "gain": None, "original": None, "drop": None, "within": False}
    assert "–" in page(found, svg(chart(found))) and headline(found)


# --- what is refused ---


def test_what_does_not_fit_is_refused_with_one_message_before_anything_is_written(tiny, tuned, fisher, tmp_path):
    other = tmp_path / "other"
    tiny_checkpoint.write_checkpoint(other, "distilbert")
    small = tmp_path / "small"
    tiny_checkpoint.write_checkpoint(small, max_position_embeddings=tiny_checkpoint.POSITIONS)
    words = json.loads((small / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (small / "tokenizer.json").write_text(json.dumps(words))
    hasty = tmp_path / "hasty"
    tiny_checkpoint.write_checkpoint(hasty)
    words = json.loads((hasty / "tokenizer.json").read_text())
    words["normalizer"] = {"type": "Replace", "pattern": {"String": "good"}, "content": "bad"}
    (hasty / "tokenizer.json").write_text(json.dumps(words))
    (hasty / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    renamed = tmp_path / "renamed"
    shutil.copytree(tuned / "model", renamed)
    heads = json.loads((renamed / "fft_heads.json").read_text())
    heads["heads"]["original"]["labels"] = ["no", "yes"]
    (renamed / "fft_heads.json").write_text(json.dumps(heads))
    moved = tmp_path / "moved"
    shutil.copytree(tiny / "bert", moved)
    tensors = load_file(moved / "model.safetensors")
    save_file({k: v * 1.5 for k, v in tensors.items()}, moved / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    base, after, given = tiny / "bert", tuned, flags(tiny, out)
    for arguments, message in (
        ((base, other, *given), "family is bert in"),
        ((base, small, *given), "only checkpoints of one vocabulary can be merged: token 4 is 'good' in"),
        ((base, hasty, *given), "read it as different tokens, so their tokenizers differ"),
        ((base, renamed, *given), "negative, positive in"),
        ((tiny / "bare", after, *given), "has no head to score the original task with"),
        ((base, after, *given, "--original-head", "nothing"), "has no head nothing; its heads are: original"),
        ((base, after, *given, "--new-head", "nothing"), "has no head nothing; its heads are: "),
        ((base, after, *given, "--max-drop", 0), "expected a number above 0"),
        ((base, after, *given, "--max-drop", "-1%"), "expected a number above 0"),
        ((base, after, *given, "--max-drop", 1), "so nothing would fail"),
        ((base, after, *given, "--sweeps", 0), "--sweeps must be at least 1"),
        ((base, after, *given, "--rows", 0), "--rows must be at least 1"),
        ((moved, after, *given, "--fisher", fisher), "was measured at other weights"),
        ((base, after, *given, "--fisher", tmp_path / "none"), "expected Fisher information in"),
        ((base, after, *given, "--new-fisher", fisher), "give --fisher too"),
        ((base, after, *given, "--fisher", fisher, "--new-fisher", fisher), "was measured at other weights"),
        ((base, after, "--original", tiny / "new.csv", "--new", tiny / "new.csv", "--out", out), "label"),
    ):
        refused(fft("repair", *arguments), message)
        assert not out.exists(), message


def test_rows_of_one_class_tell_no_two_models_apart(tiny, tuned, tmp_path):
    good = [(text, "positive") for text, feeling, _ in tiny_checkpoint.sentences(60, 9) if feeling > 0]
    held = tiny_checkpoint.write_csv(tmp_path / "held.csv", ("text", "label"), good)
    original = ("--original", tiny / "original.csv", "--original-metric", "mcc")
    said, out = "are of one class: mcc is 0 by definition", tmp_path / "out"
    pair = (tiny / "bert", tuned, *original)
    choosing = ("--original-validation", held, "--new", tiny / "new.csv", "--out", out)
    refused(fft("repair", *pair, *choosing), said, code=4)
    refused(fft("diagnose", *pair, "--original-test", held, "--out", out), said, code=4)
    assert not out.exists()


def test_test_rows_on_which_the_score_is_not_defined_leave_it_undecided(repaired):
    record = copy.deepcopy(told(repaired[1]))
    nothing = {"change": None, "low": None, "high": None, "changed": None, "undefined": "all 9 rows are of one class"}
    record["original"] |= nothing
    record["tuned_change"]["original"] |= nothing
    verdict = {"outcome": "undecided", "drop": None, "drop_low": None, "drop_high": None, "needed": None}
    record |= {"outcome": "undecided", "verdict": record["verdict"] | verdict | {"reason": nothing["undefined"]}}
    assert "the drop of the tuned model's original accuracy is unknown; the repaired" in tuned_sentence(record)
    text = page(record, svg(chart(record)))
    assert "decides nothing: all 9 rows are of one class" in text and "Undecided" in text
    record["given_up"] |= nothing
    assert tuned_sentence(record).endswith("is unknown")


def test_rows_too_few_to_choose_by_are_refused(tiny, tuned, tmp_path):
    few = tiny_checkpoint.write_csv(tmp_path / "few.csv", ("text", "label"), [("good cat", "positive")] * 9)
    answer = fft(
        "repair", tiny / "bert", tuned, "--original", few, "--new", tiny / "new.csv", "--out", tmp_path / "out"
    )
    refused(answer, "too few to split off validation and test rows")


def test_a_folder_that_holds_something_is_left_alone(repaired, tiny, tuned):
    before = {path: path.stat().st_mtime_ns for path in repaired[1].rglob("*")}
    refused(fft("repair", tiny / "bert", tuned, *flags(tiny, repaired[1])), "holds something already (front.png)")
    assert {path: path.stat().st_mtime_ns for path in repaired[1].rglob("*")} == before


def test_what_a_killed_repair_left_is_written_over(tiny, tuned, tmp_path):
    out = tmp_path / "out"
    (out / ".model.partial-repair").mkdir(parents=True)
    for name in ("lock", "front.svg", "report.html", ".model.partial-repair/config.json"):
        (out / name).write_text("left")
    answer = fft("repair", tiny / "bert", tuned, *flags(tiny, out), "--max-drop", 0.05, "--also")
    assert answer.code in (0, 1, 4), answer
    names = {path.name for path in out.iterdir()}
    assert names - {"model"} == {"lock", "front.svg", "front.png", "report.html", "repair.json"}
    assert "left" not in (out / "front.svg").read_text() and (told(out)["chosen"] is not None) == ("model" in names)


def test_the_python_way(tiny, tuned, tmp_path):
    seen = []
    settings = RepairSettings(
        *(str(tiny / "bert"), str(tuned), Data(str(tiny / "original.csv")), Data(str(tiny / "new.csv"))),
        max_drop="5%",
        also=(),
        rows=20,
    )
    found = repair(settings, tmp_path / "out", watch=lambda one, count: seen.append((one.kind, count)))
    assert seen == [("alpha", count) for count in range(1, len(seen) + 1)] and 2 < len(seen) <= 8
    assert found.record["rows"] == {"original": 20, "new": 20}
    assert found.record["max_drop"] == "5%" and found.record == told(tmp_path / "out")
    assert found.record["margin"] == pytest.approx(0.05 * found.record["candidates"][0]["original"])
    assert found.exit_code == module.EXIT_CODES[found.record["outcome"]]
