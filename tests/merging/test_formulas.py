"""Every merging formula against float64 loops over small trees: signs, ties, zeros, and heads that differ."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.errors import InputError
from fft.core.tree import flatten, unflatten
from fft.merging import formulas
from tests.helpers.toy import toy_params

BODY = {"embed/scale": (3,), "layers/0/a/kernel": (2, 3), "layers/1/a/kernel": (2, 3), "layers/10/a/bias": (2,)}


def tree(seed, heads=("original",), **leaves):
    """A random tree of BODY and heads of 2 numbers; `leaves` replace some."""
    rng = np.random.default_rng(seed)
    shapes = {**BODY, **{f"heads/{name}/out": (2,) for name in heads}}
    drawn = {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}
    return unflatten(drawn | {path: jnp.asarray(leaf, jnp.float32) for path, leaf in leaves.items()})


def numbers(tree):
    """Return {(path, index): number} in float64."""
    return {(path, at): float(x) for path, leaf in flatten(tree).items() for at, x in enumerate(np.ravel(leaf))}


def assert_numbers(tree, expected, atol=1e-6):
    result = numbers(tree)
    assert result.keys() == expected.keys()
    for entry, value in expected.items():
        assert result[entry] == pytest.approx(value, abs=atol), entry


def same_bits(a, b):
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------- interpolation


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 1.5])
def test_interpolation_by_a_plain_loop_with_each_models_own_heads(alpha):
    base, tuned = tree(0, heads=("original", "old")), tree(1, heads=("original", "new"))
    old, new = numbers(base), numbers(tuned)
    expected = {}
    for entry in {**old, **new}:
        if entry in old and entry in new:
            expected[entry] = (1 - alpha) * old[entry] + alpha * new[entry]
        else:
            expected[entry] = {**old, **new}[entry]
    assert {path for path, _ in expected if path.startswith("heads/")} == {
        f"heads/{n}/out" for n in ("old", "new", "original")
    }
    assert_numbers(formulas.interpolate(base, tuned, alpha), expected)


def test_the_ends_and_unmoved_leaves_are_exact_to_the_last_bit():
    base = {"embed": {"a": jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)}}
    tuned = jax.tree.map(lambda x: x * 1.37, base)
    assert same_bits(jax.tree.leaves(formulas.interpolate(base, tuned, 0.0)), jax.tree.leaves(base))
    assert same_bits(jax.tree.leaves(formulas.interpolate(base, tuned, 1.0)), jax.tree.leaves(tuned))
    compiled = jax.jit(formulas.interpolate)
    for alpha in np.linspace(0, 1, 21):
        assert same_bits(jax.tree.leaves(compiled(base, base, alpha)), jax.tree.leaves(base))
    assert same_bits(jax.tree.leaves(compiled(base, tuned, 1.0)), jax.tree.leaves(tuned))


def test_layers_have_their_own_alpha_and_block_1_is_not_block_10():
    base, tuned = tree(0), tree(1)
    alphas = np.linspace(0.1, 0.9, 13)  # 11 blocks
    depths = {"embed/scale": 0, "layers/0/a/kernel": 1, "layers/1/a/kernel": 2, "layers/10/a/bias": 11}
    old, new = numbers(base), numbers(tuned)
    alpha = {entry: alphas[depths.get(entry[0], 12)] for entry in old}
    expected = {entry: old[entry] + alpha[entry] * (new[entry] - old[entry]) for entry in old}
    assert_numbers(formulas.interpolate_layers(base, tuned, jnp.asarray(alphas), 11), expected)
    whole = formulas.interpolate_layers(base, tuned, jnp.full(13, 0.3), 11)
    assert same_bits(jax.tree.leaves(whole), jax.tree.leaves(formulas.interpolate(base, tuned, jnp.float32(0.3))))


# ---------------------------------------------------------------- soups


def test_a_uniform_soup_is_the_mean_and_a_head_is_averaged_over_those_that_have_it():
    models = [tree(0, heads=("a",)), tree(1, heads=("a", "b")), tree(2, heads=())]
    every = [numbers(model) for model in models]
    expected = {}
    for entry in set().union(*every):
        values = [model[entry] for model in every if entry in model]
        expected[entry] = sum(values) / len(values)
    assert_numbers(formulas.uniform_soup(models), expected)
    assert_numbers(formulas.uniform_soup(models[:1]), every[0])


def test_a_greedy_soup_takes_the_best_first_and_keeps_what_does_not_hurt():
    """One number per model; the score is the closeness to 1, on a grid coarse enough for ties."""
    places = [4.0, 1.4, 0.6, -2.0, 1.2, 1.2]  # the last one changes nothing and is added
    models = [{"embed": {"a": jnp.float32(place)}} for place in places]

    def score(model):
        return -round(abs(float(model["embed"]["a"]) - 1.0), 1)

    soup, chosen = formulas.greedy_soup(models, score)
    order, ingredients = sorted(range(6), key=lambda at: -score(models[at])), []
    for at in order:  # the paper's recipe, spelled out
        larger = [places[i] for i in (*ingredients, at)]
        now = [places[i] for i in ingredients]
        if not now or -round(abs(sum(larger) / len(larger) - 1), 1) >= -round(abs(sum(now) / len(now) - 1), 1):
            ingredients.append(at)
    assert chosen == tuple(ingredients) and chosen[:2] == (4, 5) and len(chosen) < 6
    assert float(soup["embed"]["a"]) == pytest.approx(np.mean([places[i] for i in chosen]))
    assert score(soup) >= max(map(score, models))


# ---------------------------------------------------------------- task vectors


@pytest.mark.parametrize("scale", [-0.5, 0.4, 1.0])
def test_task_vectors_add_up_and_bring_their_heads(scale):
    base = tree(0)
    tuned = [tree(1, heads=("original", "new")), tree(2, heads=("original", "newer"))]
    vectors = [formulas.task_vector(base, model) for model in tuned]
    old, others = numbers(base), [numbers(model) for model in tuned]
    expected = {**others[1], **others[0]}
    expected |= {entry: old[entry] + scale * sum(model[entry] - old[entry] for model in others) for entry in old}
    assert_numbers(formulas.add_vectors(base, tuned, vectors, scale), expected)
    assert {path for path in flatten(vectors[0]) if path.startswith("heads/")} == {"heads/original/out"}


@pytest.mark.parametrize(
    ("density", "kept"),
    [
        (0.2, {-5.0}),  # floor(.2 · 8) = 1
        (0.25, {-5.0, 4.0}),
        (0.375, {-5.0, 4.0, 3.0, -3.0}),  # the third largest has a tie, which remains
        (0.5, {-5.0, 4.0, 3.0, -3.0}),
        (0.01, {-5.0}),  # at least one
        (1.0, {-5.0, 4.0, 3.0, -3.0, 2.0, 1.0, -0.5}),
    ],
)
def test_trimming_keeps_the_largest_of_the_whole_vector(density, kept):
    vector = {
        "embed": {"a": jnp.asarray([1.0, -5.0, 0.0, 2.0])},
        "layers": {"0": {"b": jnp.asarray([[3.0, -3.0], [4.0, -0.5]])}},
    }
    result = numbers(formulas.trimmed(vector, density))
    assert result == {entry: value if value in kept else 0.0 for entry, value in numbers(vector).items()}


@pytest.mark.parametrize("density", [0.1, 0.3, 0.29, 0.7])
def test_trimming_by_sorting(density):
    vector = tree(3)
    sizes = sorted((abs(value) for value in numbers(vector).values()), reverse=True)
    kept = round(density * 100) * len(sizes) // 100
    expected = {e: value if abs(value) >= sizes[max(kept, 1) - 1] else 0.0 for e, value in numbers(vector).items()}
    assert numbers(formulas.trimmed(vector, density)) == expected
    assert sum(value != 0 for value in expected.values()) == max(kept, 1)


def test_signs_are_elected_by_mass_and_only_those_who_agree_are_averaged():
    """Every combination of three of -2, -1, 0, 1, 3, with sums of 0 and majorities that the sum outweighs."""
    votes = np.array(list(itertools.product([-2.0, -1.0, 0.0, 1.0, 3.0], repeat=3)), np.float32)
    vectors = [{"embed": {"a": jnp.asarray(column)}} for column in votes.T]
    expected = []
    for row in votes:
        elected = np.sign(sum(float(value) for value in row))
        agreeing = [float(value) for value in row if np.sign(value) == elected]
        expected.append(sum(agreeing) / len(agreeing) if elected else 0.0)
    result = formulas.elected(vectors)["embed"]["a"]
    np.testing.assert_allclose(result, expected, atol=1e-6)
    at = votes.tolist().index([-1.0, -1.0, 3.0])
    assert float(result[at]) == 3.0, "mass, not majority"
    np.testing.assert_array_equal(formulas.elected(vectors[:1])["embed"]["a"], votes[:, 0])


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9])
def test_dare_drops_and_rescales_and_is_right_on_average(rate):
    vector = tree(4)
    stacked = jax.jit(jax.vmap(lambda key: formulas.dropped(vector, rate, key)))(
        jax.random.split(jax.random.key(0), 400)
    )
    stacked = jax.device_get(stacked)
    draws = [numbers(jax.tree.map(lambda leaf, at=at: leaf[at], stacked)) for at in range(400)]
    zeros = 0
    for entry, value in numbers(vector).items():
        seen = np.array([draw[entry] for draw in draws])
        zeros += (seen == 0).sum()
        assert all(x == 0 or x == pytest.approx(value / (1 - rate), rel=1e-5) for x in seen)
        error = abs(value) * np.sqrt(rate / (1 - rate) / len(draws))  # of the mean: Bernoulli, rescaled
        assert abs(seen.mean() - value) <= 4.5 * error + 1e-6 * abs(value), entry
    count = len(draws) * len(numbers(vector))
    assert abs(zeros / count - rate) <= 4.5 * np.sqrt(rate * (1 - rate) / count)
    first, again = (formulas.dropped(vector, rate, jax.random.key(7)) for _ in range(2))
    assert same_bits(jax.tree.leaves(first), jax.tree.leaves(again))


def test_a_layer_as_large_as_another_is_not_dropped_alike():
    vector = {"layers": {str(i): {"a": jnp.ones(100)} for i in range(2)}}
    result = formulas.dropped(vector, 0.5, jax.random.key(0))["layers"]
    assert (result["0"]["a"] != result["1"]["a"]).any()


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_shares_out_of_range_are_refused(rate):
    with pytest.raises(InputError, match="rate must be between"):
        formulas.dropped(tree(0), rate, jax.random.key(0))
    with pytest.raises(InputError, match="density must be between"):
        formulas.trimmed(tree(0), -1.0)


# ---------------------------------------------------------------- Fisher


def test_fisher_weights_by_a_plain_loop_zeros_included():
    models = [tree(0, heads=("original", "old", "two")), tree(1, heads=("original", "new", "two")), tree(2)]
    rng = np.random.default_rng(5)
    fishers = [jax.tree.map(lambda leaf: jnp.asarray(rng.integers(0, 3, leaf.shape), jnp.float32), m) for m in models]
    del fishers[1]["embed"], fishers[2]["heads"]  # a leaf that a Fisher lacks has no information
    weights = [2.0, 0.5, 1.0]
    values, known = [numbers(model) for model in models], [numbers(fisher) for fisher in fishers]
    expected, blind = {}, 0
    for entry in {**values[0], **values[1], **values[2]}:
        having = [at for at in range(3) if entry in values[at]]
        precisions = {at: weights[at] * known[at].get(entry, 0.0) for at in having}
        blind += not sum(precisions.values())
        precisions = precisions if sum(precisions.values()) else {at: weights[at] for at in having}
        expected[entry] = sum(p * values[at][entry] for at, p in precisions.items()) / sum(precisions.values())
    assert blind > 0, "some entries have no information in any model"
    assert_numbers(formulas.fisher_merge(models, fishers, weights), expected)


def test_fisher_merging_minimises_the_quadratic_penalties_it_stands_for():
    models, rng = [tree(0), tree(1)], np.random.default_rng(0)
    fishers = [jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 2, leaf.shape), jnp.float32), m) for m in models]
    weights = (3.0, 0.7)

    def penalty(theta):
        pairs = zip(weights, fishers, models, strict=True)
        terms = [
            w * f * (x - m) ** 2
            for w, fisher, model in pairs
            for f, x, m in zip(*map(jax.tree.leaves, (fisher, theta, model)), strict=True)
        ]
        return sum(jnp.sum(term) for term in terms)

    slope = jax.grad(penalty)(formulas.fisher_merge(models, fishers, weights))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)) < 1e-4


def test_equal_fishers_are_interpolation():
    base, tuned = tree(0), tree(1)
    ones = jax.tree.map(jnp.ones_like, base)
    result = formulas.fisher_merge([base, tuned], [ones, ones], [0.7, 0.3])
    assert_numbers(result, numbers(formulas.interpolate(base, tuned, 0.3)))


# ---------------------------------------------------------------- what does not fit


def test_models_that_do_not_fit_are_refused_by_path():
    base = toy_params()
    wide = toy_params(width=5)
    with pytest.raises(InputError, match=r"shapes: embed/scale is \(4,\) and \(5,\)"):
        formulas.interpolate(base, wide, 0.5)
    deep = {**base, "layers": {**base["layers"], "2": base["layers"]["0"]}}
    with pytest.raises(InputError, match="not all of them have layers/2/attention/query/bias"):
        formulas.task_vector(base, deep)
    with pytest.raises(InputError, match=r"heads/original/out/bias is \(2,\) and \(3,\)"):
        formulas.uniform_soup([base, toy_params(heads={"original": 2})])
    fisher = jax.tree.map(lambda leaf: leaf[:1], base)
    with pytest.raises(InputError, match=r"Fisher information of embed/scale is \(1,\), the parameter \(4,\)"):
        formulas.fisher_merge([base, base], [fisher, base], [1, 1])
