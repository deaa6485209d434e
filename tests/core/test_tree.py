import numpy as np
import pytest

from fft.core.errors import InputError
from fft.core.tree import count, depth_of, flatten, match, overlay, select, unflatten

TREE = {
    "embed": {"word": {"embedding": np.zeros((5, 2))}},
    "layers": {str(i): {"mlp": {"up": {"kernel": np.full((2, 3), i)}}} for i in range(12)},
    "heads": {"new": {"out": {"bias": np.zeros(3)}}},
}


def test_flatten_and_unflatten_are_inverses():
    leaves = flatten(TREE)
    assert "layers/11/mlp/up/kernel" in leaves and len(leaves) == 14
    assert flatten(unflatten(leaves)).keys() == leaves.keys()


def test_count_counts_scalars():
    assert count(TREE) == 10 + 12 * 6 + 3


def test_overlay_replaces_and_adds_without_touching_its_arguments():
    out = flatten(overlay(TREE, {"heads": {"new": {"out": {"bias": np.ones(3)}}, "b": {"x": np.ones(1)}}}))
    assert out["heads/new/out/bias"].sum() == 3 and "heads/b/x" in out
    assert flatten(TREE)["heads/new/out/bias"].sum() == 0


def test_the_first_rule_that_matches_wins_and_layer_1_is_not_layer_10():
    values = match((("layers/1/.*", 1), ("layers/.*", 2), (".*", 3)), flatten(TREE))
    assert values["layers/1/mlp/up/kernel"] == 1
    assert values["layers/10/mlp/up/kernel"] == 2
    assert values["embed/word/embedding"] == 3


def test_a_rule_that_matches_nothing_names_the_nearest_path():
    with pytest.raises(InputError, match="layers/3/mlp/up/kernel"):
        match((("layers/3/mlp/upp/kernel", 1), (".*", 0)), flatten(TREE))


def test_a_path_without_a_rule_is_named():
    with pytest.raises(InputError, match="embed/word/embedding"):
        match((("layers/.*", 1), ("heads/.*", 1)), flatten(TREE))


@pytest.mark.parametrize("pattern", ["layers/3", "LAYERS/.*"])
def test_select_matches_whole_paths_only(pattern):
    assert len(flatten(select(TREE, "layers/3/.*"))) == 1
    with pytest.raises(InputError, match="whole path"):
        select(TREE, pattern)


def test_a_malformed_pattern_is_refused():
    with pytest.raises(InputError, match="not a regular expression"):
        select(TREE, "layers/(")


def test_depth_of_embeddings_blocks_and_what_is_above():
    assert [
        depth_of(p, 12) for p in ("embed/norm/scale", "layers/0/x", "layers/11/x", "pooler/kernel", "heads/a/b")
    ] == [
        0,
        1,
        12,
        13,
        13,
    ]
