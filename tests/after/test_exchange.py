"""Parts of a tree: every leaf is in one layer, swaps are bit for bit, the prediction is exact on a quadratic."""

import jax
import numpy as np
import pytest

from fft import models
from fft.after.exchange import Move, Part, exchanged, layers_of, moves, pattern_of, put_back_greedily, roles_of
from fft.after.refit import classify_drop, share_in_features
from fft.core.errors import InputError
from fft.core.tree import flatten, match, unflatten
from fft.models.files.keys import expected_shapes
from fft.stats.intervals import Change
from tests.helpers import tiny_checkpoint


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_layers_of_every_family_cover_every_leaf_once(family, tmp_path):
    tiny_checkpoint.write_checkpoint(tmp_path / family, family)
    checkpoint = models.load(tmp_path / family)
    layers = layers_of(checkpoint.params, checkpoint.model.depth)
    top = ["top"] if family == "bert" else []
    assert [part.name for part in layers] == ["embeddings", "block 0", "block 1", *top, "head original"]
    assert sorted(path for part in layers for path in part.paths) == sorted(flatten(checkpoint.params))
    within = [path for path in flatten(checkpoint.params) if path.startswith("layers/")]
    assert sorted(path for part in roles_of(checkpoint.params) for path in part.paths) == within


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt2", "modernbert"])
def test_the_roles_cover_every_leaf_of_the_blocks_of_a_pre_norm_model(family):
    """Gemma also normalizes the outputs of attention and MLP, and its queries and keys."""
    small = {"n_layer": 1} if family == "gpt2" else {"num_hidden_layers": 1}
    config = models.FAMILIES[family].config(**small)
    shapes = expected_shapes(models.FAMILIES[family], config, {})
    parts = roles_of(unflatten({path: np.zeros(()) for path in shapes}))
    within = sorted(path for path in shapes if path.startswith("layers/"))
    assert sorted(path for part in parts for path in part.paths) == within


def test_block_1_is_not_block_10_and_blocks_come_in_the_order_of_their_numbers():
    tree = unflatten(
        {f"layers/{i}/mlp/up/kernel": np.zeros(1) for i in range(12)} | {"heads/a.b/out/bias": np.zeros(1)}
    )
    layers = layers_of(tree, 12)
    assert [part.name for part in layers] == [*(f"block {i}" for i in range(12)), "head a.b"]
    assert layers[1].paths == ("layers/1/mlp/up/kernel",)


def test_the_pattern_of_some_layers_matches_them_and_no_others(tmp_path):
    tiny_checkpoint.write_checkpoint(tmp_path / "bert")
    params = models.load(tmp_path / "bert").params
    layers = layers_of(params, 2)
    for chosen in (layers[:1], layers[1:3], [layers[4], layers[0]], layers):
        mine = {path for part in chosen for path in part.paths}
        frozen = match(((pattern_of(chosen), 0.0), (".*", 1.0)), flatten(params))
        assert {path for path, multiplier in frozen.items() if multiplier == 0.0} == mine
    with pytest.raises(InputError, match="matches none"):
        match(((pattern_of([Part("x", "heads/y/.*", ())]), 0.0),), flatten(params))


def test_exchanged_takes_the_leaves_of_the_parts_and_copies_nothing():
    base, tuned = (
        {"embed": {"a": np.full(2, value)}, "layers": {"0": {"b": np.full(3, value)}}} for value in (1.0, 2.0)
    )
    mixed = exchanged(tuned, base, [Part("embeddings", "embed/.*", ("embed/a",))])
    assert mixed["embed"]["a"] is base["embed"]["a"] and mixed["layers"]["0"]["b"] is tuned["layers"]["0"]["b"]
    assert tuned["embed"]["a"][0] == 2.0


def test_on_a_quadratic_the_prediction_is_the_rise():
    """L(θ) = ½ Σ a (θ − θ*)²: the Hessian is diagonal, the first-order term vanishes at θ*."""
    rng = np.random.default_rng(0)
    a, base, tuned = (
        {"embed": {"x": rng.random((3, 2)).astype(np.float32)}, "heads": {"y": rng.random(4).astype(np.float32)}}
        for _ in range(3)
    )

    def loss(tree):
        terms = jax.tree.map(lambda w, new, old: 0.5 * (w * (new - old) ** 2).sum(), a, tree, base)
        return float(sum(jax.tree.leaves(terms)))

    found = moves(a, base, tuned)
    assert Move.of(found.values()).predicted == pytest.approx(loss(tuned), rel=1e-6)
    head = {"embed": base["embed"], "heads": tuned["heads"]}
    assert found["heads/y"].predicted == pytest.approx(loss(head), rel=1e-6)
    assert found["embed/x"].distance == pytest.approx(
        np.linalg.norm(tuned["embed"]["x"] - base["embed"]["x"]) / np.linalg.norm(base["embed"]["x"]), rel=1e-6
    )
    assert moves(a, base, base)["embed/x"] == Move(False, 0.0, found["embed/x"].size, 0.0)


def test_a_move_too_small_to_square_is_a_move_all_the_same():
    base, tuned, one = ({"embed": {"x": np.full(1, value, np.float32)}} for value in (0.0, 1e-30, 1.0))
    move = moves(one, base, tuned)["embed/x"]
    assert move.moved and move.squares == 0.0 and move.distance == np.inf


def test_the_greedy_search_takes_the_best_next_then_the_lower_loss_then_the_first():
    parts = [Part(name, name, ()) for name in "abcd"]
    scores = {"a": (0.5, 1.0), "b": (0.6, 2.0), "c": (0.6, 1.5), "d": (float("nan"), 0.0)}
    scores |= {"ca": (0.6, 1.0), "cb": (0.6, float("nan")), "cd": (0.5, 0.0), "cab": (0.9, 1.0), "cad": (0.7, 0.1)}
    asked = []

    def score(chosen):
        asked.append("".join(part.name for part in chosen))
        return scores[asked[-1]]

    steps = put_back_greedily(parts, score, enough=0.9)
    assert [step.part.name for step in steps] == ["c", "a", "b"] and [step.score for step in steps] == [0.6, 0.6, 0.9]
    assert asked == ["a", "b", "c", "d", "ca", "cb", "cd", "cab", "cad"]
    assert len(put_back_greedily(parts[:2], lambda chosen: (0.0, 0.0), enough=1.0)) == 2, "it ends with all of them"


@pytest.mark.parametrize(
    ("drop", "missing", "outcome"),
    [
        ((-0.12, -0.15, -0.09), (-0.04, -0.05, -0.03), "misaligned"),
        ((-0.12, -0.15, -0.09), (-0.10, -0.12, -0.08), "gone"),
        ((-0.12, -0.15, -0.09), (-0.06, -0.08, -0.04), "undecided"),
        ((-0.12, -0.25, 0.01), (-0.04, -0.05, -0.03), "nothing"),
        ((0.02, 0.01, 0.03), (0.0, 0.0, 0.0), "nothing"),
        ((-0.12, -0.15, -0.09), (0.01, 0.0, 0.02), "misaligned"),
    ],
)
def test_what_is_missing_from_the_features_decides(drop, missing, outcome):
    change, lacks = (Change("accuracy", 0.9, 0.9 + ends[0], *ends, 1000) for ends in (drop, missing))
    found, share = classify_drop(change, lacks)
    assert found == outcome
    if outcome != "nothing":
        assert share == share_in_features(-drop[0], lacks)
        assert share.value == pytest.approx(1 + missing[0] / 0.12) and share.low <= share.value <= share.high
