"""`fft diagnose`: it names the damaged layer, and tells a misaligned head from lost features; its predictions."""

import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft import models
from fft.after.diagnose import diagnose
from fft.after.settings import DiagnoseSettings
from fft.core.tree import flatten, overlay, unflatten
from fft.data import eval_batches, prepare
from fft.data.streams import chosen_rows, original_batches
from fft.evaluate.heldout import HeldOut
from fft.experiment import Data
from fft.report.diagnosed import page, words
from fft.report.diagnosed.chart import chart
from fft.report.drawing import svg
from tests.helpers import tiny_checkpoint
from tests.helpers.outline import Outline
from tests.helpers.tiny_checkpoint import altered, regression
from tests.helpers.tiny_runs import fft, refused, tune

HOSTILE = "<script>alert('&amp;\"x')</script>"
LAYERS = ["embeddings", "block 0", "block 1", "top", "head original"]


def hurt(folder, tmp_path, paths, change, name="hurt"):
    """A copy of a checkpoint whose leaves at these paths, in our names, are changed."""
    checkpoint = models.load(folder)
    leaves = {path: change(leaf) for path, leaf in flatten(checkpoint.params).items() if path.startswith(paths)}
    assert leaves
    return models.save(checkpoint._replace(params=overlay(checkpoint.params, unflatten(leaves))), tmp_path / name)


def noise(leaf):
    return leaf + np.random.default_rng(7).normal(0, 1.0, leaf.shape).astype(np.float32)


def turned(leaf):
    """The classes of a head in the other order."""
    return np.ascontiguousarray(np.asarray(leaf)[..., ::-1])


def flags(tiny, out):
    return ("--original", tiny / "original.csv", "--out", out)


@pytest.fixture(scope="module")
def broken(tiny, tmp_path_factory):
    """The diagnosis of a base whose block 0 was spoilt, and its answer."""
    folder = tmp_path_factory.mktemp("diagnosed")
    spoilt = hurt(tiny / "bert", folder, "layers/0/", noise)
    return fft("diagnose", tiny / "bert", spoilt, *flags(tiny, folder / "out"), "--json"), folder


# --- what it finds ---


def test_the_one_layer_that_was_hurt_is_named(broken):
    answer, folder = broken
    found = answer.json
    assert answer.code == 0 and found["lost"] and found == json.loads((folder / "out" / "diagnose.json").read_text())
    rows = {row["name"]: row for row in found["layers"]}
    assert list(rows) == LAYERS and [name for name in LAYERS if rows[name]["moved"]] == ["block 0"]
    block = rows["block 0"]
    assert found["change"]["change"] < -0.3
    assert block["put_back"]["after"] == found["change"]["before"], "put back, it is the base"
    assert block["put_back"]["change"] == -found["change"]["change"] == -block["alone"]["change"]
    assert block["alone_rise"] == found["rise"] and block["put_back_rise"]["value"] == -found["rise"]["value"]
    assert block["predicted"] == pytest.approx(found["predicted"]) and block["predicted"] > 0
    for name in set(LAYERS) - {"block 0"}:
        row = rows[name]
        assert (row["put_back"]["change"], row["alone"]["change"], row["predicted"], row["distance"]) == (0, 0, 0, 0)
    assert [step["layer"] for step in found["proposal"]["steps"]] == ["block 0"] and found["order"] is None
    assert "restoring block 0 recovers most" in answer.err and "tuned alone, block 0 loses most" in answer.err


def test_a_head_with_its_classes_the_other_way_round_is_only_misaligned(tiny, tmp_path):
    other = hurt(tiny / "bert", tmp_path, "heads/original/", turned)
    answer = fft("diagnose", tiny / "bert", other, *flags(tiny, tmp_path / "out"), "--json")
    found = answer.json
    refit, drop = found["refit"], -found["change"]["change"]
    assert refit["outcome"] == "misaligned" and drop > 0.9
    assert refit["missing"]["change"] == refit["missing"]["low"] == 0, "the features are the same to the last bit"
    assert refit["kept"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert refit["back"]["after"] == refit["reference"]["after"] > 0.9
    assert refit["fitted"]["base"] == refit["fitted"]["tuned"]
    assert [row["name"] for row in found["layers"] if row["moved"]] == ["head original"]
    assert (
        found["proposal"]["pattern"] == "heads/original/.*"
        and "the features are intact, the head is misaligned" in answer.err
    )


def test_features_that_lost_the_difference_are_gone(tiny, tmp_path):
    """Every good and bad word becomes the same word: no head can tell them apart any more."""

    def deaf(tensors):
        words, table = tiny_checkpoint.vocabulary(), tensors["bert.embeddings.word_embeddings.weight"]
        feeling = [words.index(word) for word in (*tiny_checkpoint.GOOD, *tiny_checkpoint.BAD)]
        table[feeling] = table[feeling[0]]

    other = altered(tiny / "bert", tmp_path, change=deaf)
    source = tiny_checkpoint.write_original(tmp_path / "more.csv", rows=900)
    answer = fft("diagnose", tiny / "bert", other, "--original", source, "--out", tmp_path / "out", "--json")
    found = answer.json
    assert found["refit"]["outcome"] == "gone" and found["refit"]["kept"]["high"] < 0.5
    assert found["refit"]["reference"]["after"] > 0.95 and found["refit"]["missing"]["change"] < -0.3
    assert "the knowledge is gone from the features" in answer.err


@pytest.fixture(scope="module")
def mixed(tiny, tmp_path_factory):
    """A base whose embeddings, block 1 and head were changed, rows of two lengths; the diagnosis and its scorers."""
    folder, made = tmp_path_factory.mktemp("mixed"), []
    spoilt = hurt(tiny / "bert", folder, ("layers/1/", "embed/word"), lambda leaf: 0.8 * leaf + 0.35 * noise(leaf))
    spoilt = hurt(spoilt, folder, "heads/", lambda leaf: leaf + 0.3 * noise(leaf), "both")
    rows = [(text, tiny_checkpoint.LABELS[f > 0]) for text, f, _ in tiny_checkpoint.sentences(600, 9, (2, 6))]
    source = tiny_checkpoint.write_csv(folder / "mixed.csv", ("text", "label"), rows)

    class Spy(HeldOut):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    counts = []
    settings = DiagnoseSettings(str(tiny / "bert"), str(spoilt), Data(source), fisher_rows=32, fit_rows=64, rows=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fft.evaluate.meter.HeldOut", Spy)
        found = diagnose(settings, folder / "out", watch=counts.append).record
    return settings, found, made, counts


def test_layers_that_lose_together_are_each_scored_by_plain_swaps(mixed):
    """The figures of every layer, against parameters swapped leaf by leaf and a plain forward pass over the rows."""
    settings, found = mixed[:2]
    base, tuned = (models.load(folder) for folder in (settings.base, settings.tuned))
    data = prepare(
        settings.original, base, "original", base.heads["original"], seed=settings.seed, max_length=settings.max_length
    )
    rows = data.splits["test"].take(chosen_rows(len(data.splits["test"].ids), 50, 0))
    batches = list(eval_batches(rows, 50, (max(rows.lengths()),), data.pad_id))
    ((batch, _),) = batches
    apply = jax.jit(lambda params: base.model.apply(params, batch)["logits"]["original"])

    def scored(params):
        log_p = np.asarray(jax.nn.log_softmax(apply(params)))
        picked = log_p[np.arange(50), batch.targets]
        return np.mean(log_p.argmax(1) == batch.targets), -picked.mean(dtype=np.float64)

    roots = dict(zip(LAYERS, ("embed/", "layers/0/", "layers/1/", "pooler/", "heads/original/"), strict=True))
    roots |= {"attention": "layers/1/attention/", "mlp": "layers/1/mlp/"}
    assert found["change"]["after"] == pytest.approx(scored(tuned.params)[0])
    for row in [*found["layers"], *found["roles"][:2]]:
        for which, whole, part in (("put_back", tuned, base), ("alone", base, tuned)):
            given = flatten(part.params)
            swapped = {
                path: given[path] if path.startswith(roots[row["name"]]) else leaf
                for path, leaf in flatten(whole.params).items()
            }
            score, loss = scored(unflatten(swapped))
            assert row[which]["after"] == pytest.approx(score), (row["name"], which)
            rise = loss - scored(whole.params)[1]
            assert row[f"{which}_rise"]["value"] == pytest.approx(rise, abs=1e-5), (row["name"], which)
    assert {row["name"] for row in found["layers"] if row["moved"]} == {"embeddings", "block 1", "head original"}
    assert found["order"] in (-1.0, -0.5, 0.5, 1.0), "of three layers"


def test_all_models_are_scored_by_one_program_a_length(mixed):
    _, found, (rows,), counts = mixed
    assert rows._of_heads.__wrapped__._cache_size() == 2
    assert counts == list(range(1, len(counts) + 1)) and len(counts) > 12
    assert found["rows"]["test"] == found["change"]["n"] == 50 and found["refit"]["fitted"]["tuned"]["rows"] == 64
    assert found["fisher"]["examples"] == 32


def test_where_nothing_was_lost_it_says_so_and_still_tells_the_layers(tiny, tmp_path):
    def less_sure(tensors):
        tensors["classifier.weight"] *= 0.9

    other = altered(tiny / "bert", tmp_path, change=less_sure)
    answer = fft("diagnose", tiny / "bert", other, *flags(tiny, tmp_path / "out"), "--json")
    found = answer.json
    assert answer.code == 0 and not found["lost"] and found["refit"]["outcome"] == "nothing"
    assert found["proposal"] is None and found["refit"]["kept"] is None
    assert "Nothing to explain" in answer.err and "proposed" not in answer.err
    head = found["layers"][-1]
    assert head["moved"] and head["put_back"]["change"] == 0 and head["alone_rise"]["value"] != 0
    assert "Nothing to explain" in (tmp_path / "out" / "report.html").read_text()


# --- the prediction ---


def test_the_prediction_against_a_plain_loop_over_rows_and_labels(tiny, tmp_path):
    """Σ_rows Σ_labels p (∂ log p)² / N, by autodiff row by row, times half the squared change."""
    other = hurt(tiny / "bert", tmp_path, ("layers/1/mlp", "heads/"), lambda leaf: leaf + 0.1 * noise(leaf))
    fisher = ("--model", tiny / "bert", "--original", tiny / "original.csv", "--out", tmp_path / "f", "--samples", 40)
    assert fft("fisher", *fisher, "--estimator", "exact").code == 0
    found = fft(
        "diagnose", tiny / "bert", other, *flags(tiny, tmp_path / "o"), "--fisher", tmp_path / "f", "--json"
    ).json
    assert found["fisher"]["examples"] == 40 and found["fisher"]["estimator"] == "exact"
    base, now = models.load(tiny / "bert"), flatten(models.load(other).params)
    settings = DiagnoseSettings(*map(str, (tiny / "bert", other)), Data(str(tiny / "original.csv")))
    data = prepare(
        settings.original, base, "original", base.heads["original"], seed=settings.seed, max_length=settings.max_length
    )

    @jax.jit
    def slopes(params, row):
        def log_p(params):
            return jax.nn.log_softmax(base.model.apply(params, row)["logits"]["original"][0])

        return jnp.exp(log_p(params)), jax.jacrev(log_p)(params)

    expected, rows = dict.fromkeys(now, 0.0), 0
    for batch in original_batches(data, 40, 0):
        for at in np.flatnonzero(batch.weight):
            p, slope = slopes(base.params, jax.tree.map(lambda value, at=at: value[at : at + 1], batch))
            rows += 1
            for path, leaf in flatten(slope).items():
                moved = np.square(now[path] - flatten(base.params)[path])
                expected[path] += 0.5 * sum(float(p[c] * np.sum(np.square(leaf[c]) * moved)) for c in range(2))
    of_layer = {"block 1": "layers/1/", "head original": "heads/"}
    assert rows == 40
    for row in found["layers"]:
        mine = of_layer.get(row["name"], "none")
        wanted = sum(value for path, value in expected.items() if path.startswith(mine)) / rows
        assert row["predicted"] == pytest.approx(wanted, rel=1e-4), row["name"]
    assert found["predicted"] == pytest.approx(sum(expected.values()) / rows, rel=1e-4)


def test_a_pass_of_its_own_predicts_what_the_artefact_of_the_same_rows_predicts(tiny, broken, tmp_path):
    folder = broken[1]
    fisher = ("--model", tiny / "bert", "--original", tiny / "original.csv", "--out", tmp_path / "f")
    assert fft("fisher", *fisher).code == 0
    more = ("--fisher", tmp_path / "f", "--json")
    found = fft("diagnose", tiny / "bert", folder / "hurt", *flags(tiny, tmp_path / "out"), *more).json
    own = broken[0].json
    assert own["fisher"]["folder"] is None and found["fisher"]["folder"] == str(tmp_path / "f")
    assert found["predicted"] == pytest.approx(own["predicted"], rel=1e-5)
    assert found["fisher"]["examples"] == own["fisher"]["examples"]
    same = ("change", "rise", "refit", "proposal", "rows", "loss")
    assert all(found[name] == own[name] for name in same), "the same request gives the same diagnosis"


# --- what follows from it ---


def test_the_proposed_flags_freeze_those_layers_and_no_others(tiny, broken, tmp_path):
    flags = shlex.split(words.flags(broken[0].json))
    assert flags == ["--method", "freeze", "--freeze.pattern", "layers/0/.*"]
    quick = ("--steps", 4, "--batch-size", 16, "--lr", 1e-2, "--keep", "latest", "--tolerance", 1)
    for name, flags_ in (("one", flags), ("more", [*flags[:3], "(embed|layers/0|heads/original)/.*"])):
        answer = tune(tiny, tmp_path / name, *flags_, *quick)
        assert answer.code in (0, 4), answer
        before, after = (flatten(models.load(f).params) for f in (tiny / "bert", tmp_path / name / "model"))
        frozen = ("layers/0/",) if name == "one" else ("embed/", "layers/0/", "heads/original/")
        for path, leaf in before.items():
            still = path.startswith((*frozen, "heads/original/"))
            assert np.array_equal(leaf, after[path]) == still or path.endswith("key/bias"), path


def test_where_all_layers_are_needed_no_freeze_is_proposed(broken):
    found = json.loads(json.dumps(broken[0].json))
    found["proposal"]["all"] = True
    assert words.flags(found) == "" and "no freeze is proposed" in words.proposal_sentence(found)
    found["proposal"]["all"], found["proposal"]["pattern"] = False, "heads/it's/.*"
    assert shlex.split(words.flags(found))[-1] == "heads/it's/.*"


def test_a_regression_is_diagnosed_in_the_unit_of_its_metric(tiny, tmp_path):
    source = tiny_checkpoint.write_targets(tmp_path / "targets.csv", rows=300)
    sides = [regression(tiny / "bert", tmp_path, name, shift) for name, shift in (("before", 0.0), ("after", 4.0))]
    given = ("--original", source, "--original-label", "score", "--original-kind", "regression")
    fisher = ("--estimator", "exact", "--out", tmp_path / "f")
    assert fft("fisher", "--model", sides[0], *given, *fisher).code == 0
    more = ("--fisher", tmp_path / "f", "--metric", "rmse", "--out", tmp_path / "out", "--json")
    found = fft("diagnose", *sides, *given, *more).json
    head = found["layers"][-1]
    assert found["lost"] and found["change"]["metric"] == "rmse"
    assert head["put_back"]["change"] == pytest.approx(found["change"]["after"] - found["change"]["before"])
    assert found["refit"]["outcome"] == "misaligned"
    precision = found["predicted"] / (0.5 * 4.0**2)  # of a bias the Fisher is 1 / σ²
    for side, score in (("base", "before"), ("tuned", "after")):
        assert found["loss"][side] == pytest.approx(0.5 * precision * found["change"][score] ** 2, rel=1e-4)


# --- what is written ---


def test_the_folder_holds_what_the_documentation_says(broken):
    names = {path.name for path in (broken[1] / "out").iterdir()}
    assert names == {"diagnose.json", "report.html", "layers.svg", "layers.png", "lock"}
    for word in ("score back", "½ (θ − θ*)ᵀ F", "proposed for the next fft tune, not a measured result", "report:"):
        assert word in broken[0].err


def test_the_page_is_balanced_escaped_and_loads_nothing(broken):
    found = json.loads(json.dumps(broken[0].json))
    found["base"]["folder"], found["notes"], found["data"]["source"] = HOSTILE, [HOSTILE], HOSTILE
    found["layers"][-1]["name"] = f"head {HOSTILE}"
    found["proposal"]["pattern"] = HOSTILE
    text = page.page(found, svg(chart(found)))
    outline = Outline(text)
    assert not outline.open and not outline.loads and "script" not in outline.tags
    assert HOSTILE not in text and HOSTILE in "".join(outline.words)
    order = ("drop of", "Layers", "A proposal", "Notes and warnings", "Settings")
    whole = "".join(outline.words)
    assert sorted(order, key=whole.index) == list(order) and "<svg" in text


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_nothing_of_the_picture_collides_in_a_wider_font(broken, scale):
    """Entries of the legend below each other, titles on two lines, and ticks that give way; small ones as powers."""
    found = json.loads(json.dumps(broken[0].json))
    for row in found["layers"]:
        row["predicted"] *= scale
    spec = chart(found).to_dict()
    panels = [layer["encoding"] for panel in spec["hconcat"] for layer in panel["layer"] if "y" in layer["encoding"]]
    assert all(one["color"]["legend"]["columns"] == 1 for one in panels if "legend" in one["color"])
    axes = [one["x"] for one in panels if "axis" in one["x"]]
    assert all(len(axis["title"]) == 2 and axis["axis"]["labelOverlap"] == "greedy" for axis in axes)
    assert (axes[-1]["axis"]["format"] == ".0e") == (max(row["predicted"] for row in found["layers"]) < 1e-3)


def test_numbers_that_are_not_finite_are_dashes_and_no_points(broken):
    found = json.loads(json.dumps(broken[0].json))
    gone = {"value": None, "low": None, "high": None}
    found |= {"rise": gone, "predicted": None, "order": None}
    found["layers"][1] |= {"put_back_rise": gone, "alone_rise": gone, "predicted": None}
    assert "–" in page.page(found, svg(chart(found))) and words.sentences(found)


# --- what is refused ---


def test_what_does_not_fit_is_refused_with_one_message_before_anything_is_written(tiny, broken, tmp_path):
    other, small = tmp_path / "other", tmp_path / "small"
    tiny_checkpoint.write_checkpoint(other, "distilbert")
    tiny_checkpoint.write_checkpoint(small)
    told = json.loads((small / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (small / "tokenizer.json").write_text(json.dumps(told))
    renamed = altered(tiny / "bert", tmp_path, "renamed", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    spoilt, out = broken[1] / "hurt", tmp_path / "out"
    fisher = ("--model", spoilt, "--original", tiny / "original.csv", "--out", tmp_path / "f", "--samples", 16)
    assert fft("fisher", *fisher).code == 0
    base, given = tiny / "bert", flags(tiny, out)
    for arguments, message in (
        ((base, other, *given), "family is bert in"),
        ((base, small, *given), "only checkpoints of one vocabulary can be diagnosed: token 4 is 'good' in"),
        ((base, renamed, *given), "have the same labels in the same order"),
        ((base, base, *given), "there is nothing to diagnose"),
        ((tiny / "bare", spoilt, *given), "has no head to score the original task with"),
        ((base, spoilt, *given, "--head", "nothing"), "has no head nothing; its heads are: original"),
        ((base, spoilt, *given, "--tuned-head", "nothing"), "has no head nothing; its heads are: original"),
        ((base, spoilt, *given, "--original-label", "nothing"), "nothing"),
        ((base, spoilt, "--original", tiny / "new.csv", "--out", out), "unknown label"),
        ((base, spoilt, *given, "--fisher", tmp_path / "f"), "was measured at other weights"),
        ((base, spoilt, *given, "--fisher", tmp_path / "none"), "expected Fisher information in"),
        ((base, spoilt, *given, "--rows", 0), "rows must be at least 1"),
        ((base, spoilt, *given, "--metric", "pearson"), "pearson"),
    ):
        refused(fft("diagnose", *arguments), message)
        assert not out.exists(), message
    refused(fft("diagnose", base, spoilt, *flags(tiny, broken[1] / "out")), "holds something already (diagnose.json)")
