"""`fft merge`: the written files against plain numpy on the input files, and which heads the result has."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from fft import models
from fft.commands.merge import greedy_sentence
from fft.core.batch import Inputs
from fft.core.tree import overlay
from fft.data.rows import Columns
from fft.data.splits import make_splits
from fft.fisher.information import load_fisher, save_fisher
from fft.fisher.storage import unpack
from fft.models import Head
from fft.models.identity import base_sha256
from tests.helpers import tiny_checkpoint
from tests.helpers.tiny_runs import fft, refused

ANIMALS = ("bird", "cat", "dog")


def tuned_from(base, folder, seed, heads, primary, size=0.1):
    """Write the base with every parameter moved, and with further heads of random numbers; return its folder."""
    rng, old = np.random.default_rng(seed), models.load(base)
    moved = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(0, size, leaf.shape), leaf.dtype), old.params)
    made = {name: old.model.init_head(jax.random.key(seed), len(labels)) for name, labels in heads.items()}
    made = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(0, 1, leaf.shape), leaf.dtype), made)
    kinds = {name: Head("classification", labels) for name, labels in heads.items()}
    return models.save(
        old._replace(params=overlay(moved, {"heads": made}), heads={**old.heads, **kinds}, primary=primary), folder
    )


@pytest.fixture(scope="module")
def three(tiny, tmp_path_factory):
    """A base and three models of it: two with the same new head, one with a head of that name and other labels."""
    root = tmp_path_factory.mktemp("three")
    base = tiny / "bert"
    return (
        base,
        tuned_from(base, root / "a", 1, {"new": ANIMALS}, "new"),
        tuned_from(base, root / "b", 2, {"new": ANIMALS}, "new", size=0.3),
        tuned_from(base, root / "c", 3, {"new": ("no", "yes")}, "new"),
    )


def numbers(folder):
    """{name: float64 array} of every tensor of a checkpoint; heads other than the classifier under our own paths."""
    found = load_file(folder / "model.safetensors")
    if (folder / "fft_heads.safetensors").exists():
        found |= load_file(folder / "fft_heads.safetensors")
    record = folder / "fft_heads.json"
    primary = json.loads(record.read_text())["primary"] if record.exists() else "original"
    names = {"classifier.weight": f"heads/{primary}/out/kernel", "classifier.bias": f"heads/{primary}/out/bias"}
    return {names.get(name, name): np.float64(x) for name, x in found.items()}


def merged(three, tmp_path, *flags, pick=(1, 2, 3)):
    """What the command wrote, as numbers, and its answer."""
    out = tmp_path / "merged"
    answer = fft("merge", three[0], *(three[i] for i in pick), *flags, "--out", out, "--json")
    assert answer.code == 0, answer.err
    assert answer.json == json.loads((out / "merge.json").read_text())
    return numbers(out), answer.json


def inputs(three, pick=(1, 2, 3)):
    """The base and the models picked, as numbers; c's new head under the name that it gets."""
    base, *tuned = (numbers(three[i]) for i in (0, *pick))
    own = {
        i: {
            name.replace("heads/new/", "heads/new_2/") if i == 3 and pick[0] != 3 else name: x
            for name, x in model.items()
        }
        for i, model in zip(pick, tuned, strict=True)
    }
    return base, list(own.values())


def close(found, expected, atol=2e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=atol, rtol=1e-5, err_msg=name)


def mean_of_owned(expected, tuned):
    """A head that the base lacks is the mean over the models that have it."""
    for name in {name for model in tuned for name in model} - set(expected):
        owned = [model[name] for model in tuned if name in model]
        expected[name] = sum(owned) / len(owned)
    return expected


# --- the formulas ---


def test_interpolation(three, tmp_path):
    found, told = merged(three, tmp_path, "--how", "interpolate", "--alpha", 0.3, pick=(1,))
    base, (tuned,) = inputs(three, (1,))
    close(found, {name: x if name not in base else 0.7 * base[name] + 0.3 * x for name, x in tuned.items()})
    assert told["settings"] == {"alpha": 0.3, "layers": []} and told["primary"] == "new"


def test_interpolation_with_an_alpha_by_layer(three, tmp_path):
    alphas = (0.1, 0.5, 0.9, 1.3)  # embeddings, two blocks, above
    found, _ = merged(three, tmp_path, "--how", "interpolate", "--layers", *alphas, pick=(1,))
    base, (tuned,) = inputs(three, (1,))

    def alpha(name):
        return alphas[0 if "embeddings" in name else 1 if "layer.0." in name else 2 if "layer.1." in name else 3]

    close(found, {n: x if n not in base else base[n] + alpha(n) * (x - base[n]) for n, x in tuned.items()})


def test_a_soup_of_one_task_and_the_heads_that_only_the_base_has(three, tmp_path):
    found, told = merged(three, tmp_path, "--how", "soup")
    _, tuned = inputs(three)
    close(found, mean_of_owned({n: sum(m[n] for m in tuned) / 3 for n in set.intersection(*map(set, tuned))}, tuned))
    assert list(told["heads"]) == ["original", "new", "new_2"]


def test_a_greedy_soup_by_fft_eval_and_the_recipe(three, tiny, tmp_path):
    """Two good models and a bad one: from the best down each stays unless the soup's validation score gets worse."""
    base, good = three[0], [tuned_from(three[0], tmp_path / f"good{i}", 10 + i, {}, "original") for i in (0, 1)]
    bad = tuned_from(base, tmp_path / "bad", 12, {}, "original", size=1.5)
    folders, out = [bad, *good], tmp_path / "greedy"
    found = make_splits(str(tiny / "original.csv"), Columns("text", None, "label")).rows["validation"]
    lines = list(zip(found.texts, found.labels, strict=True))
    rows = tiny_checkpoint.write_csv(tmp_path / "validation.csv", ("text", "label"), lines)

    def score(picked):
        at = folders[picked[0]]
        if len(picked) > 1:
            at = tmp_path / "-".join(map(str, picked))
            assert fft("merge", base, *(folders[i] for i in picked), "--how", "soup", "--out", at).code == 0
        return fft("eval", "--model", at, "--task", rows, "--json").json["score"]

    alone = [score((i,)) for i in range(3)]
    order = sorted(range(3), key=lambda at: -alone[at])
    chosen, reached = order[:1], alone[order[0]]
    for at in order[1:]:
        if (larger := score((*chosen, at))) >= reached:
            chosen, reached = [*chosen, at], larger
    answer = fft("merge", base, *folders, "--how", "soup", "--task", tiny / "original.csv", "--out", out, "--json")
    assert answer.code == 0, answer.err
    told = answer.json["greedy"]
    assert told["chosen"] == chosen and 0 not in chosen and len(chosen) == 2
    assert told["scores"] == pytest.approx(alone) and told["soup"] == pytest.approx(reached)
    close(numbers(out), numbers(tmp_path / "-".join(map(str, chosen))))
    assert f"the greedy soup averages {', '.join(str(folders[at]) for at in chosen)}: {reached:.4f}" in answer.err


def test_a_greedy_soup_of_one_model_is_no_soup():
    found = {"tuned": [{"folder": "a"}, {"folder": "b"}]}
    found["greedy"] = {"metric": "accuracy", "rows": {"rows": 1}, "scores": [0.5, 0.75], "soup": 0.75, "chosen": [1]}
    said = "no soup: b is written alone, as every average with another model is worse; accuracy on 1 validation row"
    assert greedy_sentence(found) == f"{said}: a 0.5000, b 0.7500"


@pytest.mark.parametrize("scale", [(0.4,), (-1.0,), (1.0, -0.5, 0.25)])
def test_task_vectors_added_and_taken_away(three, scale, tmp_path):
    found, _ = merged(three, tmp_path, "--how", "arithmetic", "--scale", *scale)
    base, tuned = inputs(three)
    each = scale * 3 if len(scale) == 1 else scale
    expected = {n: x + sum(s * (m[n] - x) for s, m in zip(each, tuned, strict=True)) for n, x in base.items()}
    close(found, mean_of_owned(expected, tuned))


def test_ties_by_sorting_and_counting(three, tmp_path):
    found, _ = merged(three, tmp_path, "--how", "ties", "--density", 0.1, "--scale", 0.7)
    base, tuned = inputs(three)
    trimmed = []
    for model in tuned:
        vector = {name: model[name].astype(np.float32) - x.astype(np.float32) for name, x in base.items()}
        sizes = np.sort(np.concatenate([np.abs(x).ravel() for x in vector.values()]))[::-1]
        least = sizes[int(0.1 * len(sizes)) - 1]
        trimmed.append({name: np.where(np.abs(x) >= least, x, 0.0) for name, x in vector.items()})
    expected = {}
    for name, x in base.items():
        sign = np.sign(sum(vector[name] for vector in trimmed))
        votes = [np.where((np.sign(v[name]) == sign) & (v[name] != 0), v[name], np.nan) for v in trimmed]
        agreeing = np.maximum(np.sum(~np.isnan(votes), axis=0), 1)
        expected[name] = x + 0.7 * np.nansum(votes, axis=0) / agreeing
    close(found, mean_of_owned(expected, tuned))


def test_dare_drops_and_rescales_and_its_seed_is_kept(three, tmp_path):
    flags = ("--how", "dare", "--rate", 0.75, "--scale", 0.5)
    found, told = merged(three, tmp_path / "1", *flags, "--seed", 3, pick=(1,))
    base, (tuned,) = inputs(three, (1,))
    dropped = count = 0
    for name, x in base.items():
        change, whole = found[name] - x, 0.5 * (tuned[name] - x) / 0.25
        np.testing.assert_allclose(np.where(np.abs(change) < 1e-7, 0.0, change - whole), 0, atol=5e-6, err_msg=name)
        dropped, count = dropped + (np.abs(change) < 1e-7).sum(), count + x.size
    assert abs(dropped / count - 0.75) < 5 * np.sqrt(0.75 * 0.25 / count) + 1e-3
    again, _ = merged(three, tmp_path / "2", *flags, "--seed", 3, pick=(1,))
    other, _ = merged(three, tmp_path / "3", *flags, "--seed", 4, pick=(1,))
    assert all((found[name] == again[name]).all() for name in found) and told["settings"]["seed"] == 3
    assert any((found[name] != other[name]).any() for name in found)


@pytest.fixture(scope="module")
def fishers(three, tmp_path_factory):
    """Fisher information at every tuned model, of whole numbers, so that there are zeros."""
    root = tmp_path_factory.mktemp("fishers")
    for i in (1, 2, 3):
        at = models.load(three[i])
        rng = np.random.default_rng(i)
        known = {name: tree for name, tree in at.params.items() if name != "pooler"}
        diagonal = jax.tree.map(lambda leaf, rng=rng: jnp.asarray(rng.integers(0, 3, leaf.shape), jnp.float32), known)
        save_fisher(root / str(i), diagonal, "float32", {"base_sha256": base_sha256(at), "model": "m", "tasks": ["t"]})
    return root


def test_fisher_merging(three, fishers, tmp_path):
    folders = [fishers / str(i) for i in (1, 2, 3)]
    weights = (2.0, 1.0, 0.5)
    found, told = merged(three, tmp_path, "--how", "fisher", "--fisher", *folders, "--weights", *weights)
    _, tuned = inputs(three)
    known = []
    for i, folder in zip((1, 2, 3), folders, strict=True):  # as a checkpoint's file, to be read like one
        at = models.load(three[i])
        whole = overlay(jax.tree.map(jnp.zeros_like, at.params), unpack(load_fisher(folder)[0]))
        known.append(numbers(models.save(at._replace(params=whole), tmp_path / f"f{i}")))
    known[2] = {name.replace("heads/new/", "heads/new_2/"): x for name, x in known[2].items()}
    expected = {}
    for name in {name for model in tuned for name in model}:
        having = [(w, f[name], m[name]) for w, f, m in zip(weights, known, tuned, strict=True) if name in m]
        total = sum(w * f for w, f, _ in having)
        equal = sum(w * m for w, _, m in having) / sum(w for w, _, _ in having)
        expected[name] = np.where(total > 0, sum(w * f * m for w, f, m in having) / np.maximum(total, 1e-30), equal)
    close(found, expected)
    assert told["settings"]["weights"] == list(weights)
    out = tmp_path / "swapped"
    answer = fft("merge", *three[:3], "--how", "fisher", "--fisher", folders[1], folders[0], "--out", out)
    refused(answer, "was measured at other weights")


# --- heads, files ---


def test_transformers_loads_the_result_and_computes_what_we_compute(three, tmp_path):
    merged(three, tmp_path, "--how", "soup", "--head", "new_2")
    ours = models.load(tmp_path / "merged")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert ours.primary == "new_2" and list(theirs.config.id2label.values()) == ["no", "yes"]
    ids = np.random.default_rng(0).integers(4, 40, (3, 7))
    batch = Inputs(ids, np.ones_like(ids), np.zeros_like(ids))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    found = ours.model.apply(ours.params, batch)["logits"]["new_2"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "merged") is not None


def test_heads_of_one_name_and_labels_may_stay_apart(three, tmp_path):
    found, told = merged(three, tmp_path, "--how", "arithmetic", "--heads", "apart")
    assert [each["heads"]["new"] for each in told["tuned"]] == ["new", "new_2", "new_3"]
    tuned = [numbers(three[i]) for i in (1, 2, 3)]
    for name, model in zip(("new", "new_2", "new_3"), tuned, strict=True):
        np.testing.assert_array_equal(found[f"heads/{name}/out/kernel"], model["heads/new/out/kernel"])
    assert all(each["heads"]["original"] == "original" for each in told["tuned"]), "the base's is one head for all"
    assert {each["sha256"] for each in told["tuned"]} == {base_sha256(models.load(three[i])) for i in (1, 2, 3)}


def test_a_head_that_a_tuned_model_lacks_has_not_moved_there(three, tmp_path):
    """A model whose only classifier is another task's, as a program that knows one head leaves it."""
    old = models.load(three[1])
    alone = {**old.params, "heads": {"original": old.params["heads"]["new"]}}
    folder = models.save(
        old._replace(params=alone, heads={"original": old.heads["new"]}, primary="original"), tmp_path / "x"
    )
    out = tmp_path / "merged"
    answer = fft("merge", three[0], folder, three[2], "--how", "arithmetic", "--scale", 0.5, "--out", out)
    assert answer.code == 0 and f"the head original of {folder} is called original_2" in answer.out
    base, other, found = numbers(three[0]), numbers(three[2]), numbers(out)
    name = "heads/original/out/kernel"
    np.testing.assert_allclose(found[name], base[name] + 0.5 * (other[name] - base[name]), atol=1e-6)
    np.testing.assert_allclose(found["heads/original_2/out/kernel"], numbers(folder)[name], atol=1e-6)
    assert models.load(out).primary == "original_2"


def test_what_does_not_fit_is_refused_and_nothing_is_written(three, tiny, tmp_path):
    out = ("--out", tmp_path / "out")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    base, a, b, _ = three
    wide = tmp_path / "wide"
    tiny_checkpoint.write_checkpoint(wide, max_position_embeddings=tiny_checkpoint.POSITIONS, layer_norm_eps=1e-6)
    for arguments, message in (
        ((base, a, b, "--how", "interpolate", *out), "--how interpolate takes one TUNED beside BASE, not 2"),
        ((base, a, "--how", "soup", *out), "--how soup takes at least 2 TUNED beside BASE, not 1"),
        ((base, a, b, "--how", "soup", "--scale", 2, *out), "--scale is not read by --how soup, which reads none"),
        ((base, a, b, "--how", "ties", "--scale", 1, 2, *out), "--how ties takes one --scale"),
        (
            (base, a, b, "--how", "dare", "--scale", 1, 2, 3, *out),
            "--scale has 3 values for 2 TUNED models: give one for all, or one each",
        ),
        ((base, a, "--how", "interpolate", "--layers", 1, 0, *out), "--layers takes 4 numbers for these models"),
        ((base, a, b, "--how", "fisher", *out), "needs --fisher with one folder for each TUNED, 2 of them, not 0"),
        ((base, a, b, "--how", "arithmetic", "--scale", "nan", *out), "--scale must be a number, not nan"),
        ((base, a, b, "--how", "soup", "--head", "third", *out), "has no head third; its heads are: original, new"),
        ((base, a, b, "--how", "ties", "--task", "x.csv", *out), "--task is unused by --how ties"),
        ((base, a, three[3], "--how", "soup", "--task", tiny / "new.csv", *out), "has no head new, with which --task"),
        ((base, a, wide, "--how", "soup", *out), "one family and shape can be merged: epsilon is"),
        ((base, a, b, "--how", "soup", "--out", taken), "holds something already (thesis.txt)"),
        ((base, a, tiny, "--how", "soup", *out), "has no config.json"),
    ):
        refused(fft("merge", *arguments), message)
    assert not (tmp_path / "out").exists()
