"""One contract for every method and some chains, then the properties of each method."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.experiment import Optim
from fft.fisher.information import save_fisher
from fft.methods import (
    EWC,
    IA3,
    L2SP,
    MAS,
    METHODS,
    BitFit,
    Context,
    DoRA,
    Freeze,
    Full,
    Layerwise,
    LoRA,
    Method,
    NormTuning,
    Parts,
    PrefixTuning,
    PromptTuning,
    StepContext,
    Wise,
    from_json,
    parse_chain,
)
from fft.tasks.regress import Regress
from fft.training.optim import make_optimizer, multipliers
from fft.training.step import finished_params
from tests.helpers.methods import (
    CHAINS,
    MODEL,
    check_contract,
    context,
    stepper,
    trained,
)
from tests.helpers.toy import max_difference, toy_batch, toy_params


@pytest.mark.parametrize("names", [*METHODS, *CHAINS])
def test_contract(names, tmp_path):
    check_contract(names, tmp_path)


@pytest.fixture
def base():
    return toy_params(heads={"original": 3, "new": 3})


def test_full_step_is_adam_by_hand(base):
    """One AdamW step from the closed form: θ − lr (g/(|g| + ε) + wd θ), decay on two-dimensional leaves only."""
    lr, decay = 0.05, 0.1
    step, state, aux, _ = stepper(Full(), base, lr=lr, weight_decay=decay, clip=0.0, schedule="constant")
    batch = toy_batch(0)

    def loss(params):
        logits = MODEL.apply(params, batch)["logits"]["new"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()

    value, grads = jax.value_and_grad(loss)(base)
    state, metrics = step(state, base, aux, {"new": jax.tree.map(lambda x: x[None], batch)})
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-6)
    gradients, leaves = flatten(grads), flatten(base)
    for path, leaf in flatten(state.theta).items():
        if path.startswith("heads/original"):
            continue
        g, old = gradients[path], leaves[path]
        expected = old - lr * (g / (jnp.abs(g) + 1e-8) + (decay if old.ndim > 1 else 0.0) * old)
        np.testing.assert_allclose(leaf, expected, atol=2e-5, err_msg=path)


def test_accumulated_micro_batches_equal_one_batch(base):
    batch = toy_batch(0, rows=8, filler=3)
    for shape in [(1, 8), (2, 4), (4, 2)]:
        step, state, aux, _ = stepper(Full(), base)
        new = jax.tree.map(lambda x, shape=shape: x.reshape(*shape, *x.shape[1:]), batch)
        state, metrics = step(state, base, aux, {"new": new})
        if shape == (1, 8):
            reference, loss = state.theta, metrics["loss"]
        assert max_difference(state.theta, reference) < 1e-5
        assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)


def test_the_clip_sees_the_trained_leaves_only_and_all_groups_at_once(base):
    method = parse_chain("freeze+layerwise")
    step, state, aux, multiplier = stepper(method, base)
    batch = toy_batch(0)

    def loss(params):
        logits = MODEL.apply(params, batch)["logits"]["new"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets).mean()

    grads = flatten(jax.grad(loss)(base))
    expected = np.sqrt(sum(float(jnp.sum(g**2)) for p, g in grads.items() if multiplier[p] != 0))
    _, metrics = step(state, base, aux, {"new": jax.tree.map(lambda x: x[None], batch)})
    assert float(metrics["grad_norm"]) == pytest.approx(expected, rel=1e-5)
    # One clipped gradient for all groups: Adam's first moment is 0.1 · g · clip / norm over the trained leaves.
    tx = make_optimizer(base, multiplier, Optim(lr=1.0, clip=0.5, warmup=0.0), 10)
    ones = jax.tree.map(jnp.ones_like, base)
    _, opt_state = tx.update(ones, tx.init(base), base)
    trained_scalars = sum(np.prod(x.shape) for p, x in flatten(base).items() if multiplier[p] != 0)
    moments = [s.mu for s in jax.tree.leaves(opt_state, is_leaf=is_adam) if is_adam(s)]
    values = np.concatenate([np.ravel(x) for mu in moments for x in jax.tree.leaves(mu)])
    assert len(values) == trained_scalars
    np.testing.assert_allclose(values, 0.1 * 0.5 / np.sqrt(trained_scalars), rtol=1e-5)


def is_adam(state):
    return isinstance(state, optax.ScaleByAdamState)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(base):
    step, state, aux, _ = stepper(Full(), base)
    bad = toy_batch(0)
    bad.x[0, 0] = np.nan
    kept = jax.tree.map(jnp.copy, (state.theta, state.opt_state))
    state, metrics = step(state, base, aux, {"new": jax.tree.map(lambda x: x[None], bad)})
    assert max_difference((state.theta, state.opt_state), kept) == 0
    assert (int(state.step), int(state.skipped), int(metrics["skipped_in_a_row"])) == (1, 1, 1)
    state, metrics = step(state, base, aux, {"new": jax.tree.map(lambda x: x[None], toy_batch(1))})
    assert (int(state.skipped), int(metrics["skipped_in_a_row"])) == (1, 0)
    assert max_difference(state.theta, kept[0]) > 0


def test_freeze_takes_the_embeddings_and_the_lowest_blocks(base):
    multiplier = multipliers(Freeze(blocks=1), base, MODEL.depth)
    assert {p for p, m in multiplier.items() if m == 0} == {
        "embed/scale",
        "layers/0/attention/query/kernel",
        "layers/0/attention/query/bias",
    }
    assert multipliers(Freeze(), base, MODEL.depth) == multiplier, "half of the blocks by default"
    with pytest.raises(InputError, match="has 2 blocks"):
        multipliers(Freeze(blocks=3), base, MODEL.depth)
    with pytest.raises(InputError, match="matches none"):
        multipliers(Freeze(pattern="layer.0.*"), base, MODEL.depth)
    with pytest.raises(InputError, match="nothing to train"):
        multipliers(Freeze(pattern=".*"), base, MODEL.depth)


def test_layerwise_multiplies_by_decay_to_the_distance_from_the_top(base):
    multiplier = multipliers(Layerwise(decay=0.5), base, MODEL.depth)
    assert multiplier["embed/scale"] == 0.5**3
    assert multiplier["layers/0/attention/query/bias"] == 0.5**2
    assert multiplier["layers/1/attention/query/bias"] == 0.5
    assert multiplier["heads/new/out/bias"] == 1.0


def test_chained_multipliers_do_not_depend_on_the_order(base):
    first, second = (multipliers(parse_chain(n), base, MODEL.depth) for n in ("freeze+layerwise", "layerwise+freeze"))
    assert first == second and 0.0 in first.values() and 0.9 in first.values()


def test_layerwise_scales_the_update_itself(base):
    """The first AdamW update is lr · multiplier · sign(g), up to ε."""
    step, state, aux, multiplier = stepper(Layerwise(decay=0.5), base, lr=0.01, weight_decay=0.0, schedule="constant")
    state, _ = step(state, base, aux, {"new": jax.tree.map(lambda x: x[None], toy_batch(0))})
    old = flatten(base)
    for path, leaf in flatten(state.theta).items():
        if multiplier[path] and not path.startswith("heads/original"):
            assert float(jnp.max(jnp.abs(leaf - old[path]))) == pytest.approx(0.01 * multiplier[path], rel=1e-2), path


def test_l2sp_penalty_by_plain_loops(base):
    method = L2SP(strength=0.3, head_strength=0.2)
    aux = method.prepare(context(base), jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1, base)
    expected = 0.0
    anchors = flatten(base)
    for path, leaf in flatten(params).items():
        for value, anchor in zip(np.ravel(leaf).astype(np.float64), np.ravel(anchors[path]), strict=True):
            expected += 0.1 * value**2 if path.startswith("heads/new/") else 0.15 * (value - anchor) ** 2
    assert float(method.penalty(StepContext(base, aux), params)) == pytest.approx(expected, rel=1e-5)


def test_mas_is_the_mean_absolute_gradient_of_the_squared_answers(base):
    """Against the chain rule in numpy, a row at a time: h = tanh(tanh(x s W₀ + b₀) W₁ + b₁), z = h V + c."""
    method = MAS(strength=2.0)
    aux = method.prepare(context(base), jax.random.key(0))
    leaf = {path: np.asarray(value, np.float64) for path, value in flatten(base).items()}
    w1 = leaf["layers/1/attention/query/kernel"]
    head, shift = leaf["heads/original/out/kernel"], leaf["heads/original/out/bias"]
    slopes = []
    for x in toy_batch(rows=8, filler=3).x[:5].astype(np.float64):
        x = x * leaf["embed/scale"]
        low = np.tanh(x @ leaf["layers/0/attention/query/kernel"] + leaf["layers/0/attention/query/bias"])
        high = np.tanh(low @ w1 + leaf["layers/1/attention/query/bias"])
        down = (2 * (high @ head + shift) @ head.T * (1 - high**2) @ w1.T) * (1 - low**2)
        slopes.append({"layers/0/attention/query/kernel": np.outer(x, down), "layers/0/attention/query/bias": down})
    for path in slopes[0]:
        expected = np.mean([np.abs(slope[path]) for slope in slopes], axis=0)
        np.testing.assert_allclose(flatten(aux)[path], expected, rtol=1e-4, err_msg=path)
    assert "new" not in aux["heads"]
    params = jax.tree.map(lambda x: x + 0.1, base)
    total = sum(float(jnp.sum(omega)) for omega in jax.tree.leaves(aux))
    assert float(method.penalty(StepContext(base, aux), params)) == pytest.approx(2.0 * 0.01 * total, rel=1e-4)


def test_ewc_penalty_has_the_half_and_leaves_fresh_heads_out(base):
    method = EWC(strength=7.0, way="vmapped")
    aux = method.prepare(context(base), jax.random.key(0))
    assert "new" not in aux["fisher"]["heads"] and "original" in aux["fisher"]["heads"]
    params = jax.tree.map(lambda x: x + 0.1, base)
    expected = 0.5 * 7.0 * 0.01 * sum(float(jnp.sum(f)) for f in jax.tree.leaves(aux["fisher"]))
    assert float(method.penalty(StepContext(base, aux), params)) == pytest.approx(expected, rel=1e-4)
    narrow = toy_params(heads={"original": 1, "new": 3})
    with pytest.raises(InputError, match="heads/original/out/bias"):
        method.penalty(StepContext(base, aux), narrow)


def test_ewc_with_lora_penalises_the_merged_update(base):
    """½ λ Σ F ⊙ (s·A·B)² from the adapter's own matrices."""
    method = parse_chain("lora+ewc", {"ewc": EWC(strength=3.0, way="vmapped")})
    lora = method.members[0]
    theta = method.init(base, jax.random.key(1))
    theta["layers"]["0"]["attention"]["query"]["lora_b"] += 0.5
    aux = method.prepare(context(base), jax.random.key(0))
    q = theta["layers"]["0"]["attention"]["query"]
    update = lora.scale * q["lora_a"] @ q["lora_b"]
    fisher = aux["ewc"]["fisher"]["layers"]["0"]["attention"]["query"]["kernel"]
    expected = 1.5 * float(jnp.sum(fisher * update**2))
    assert float(method.penalty(StepContext(base, aux), method.merge(base, theta))) == pytest.approx(expected, rel=1e-4)


def test_lora_with_the_adapter_off_is_the_base_bit_for_bit(base):
    kept = jax.tree.map(np.asarray, base)
    state, _, _ = trained(LoRA(targets="query"), base, steps=3)
    assert all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(base), jax.tree.leaves(kept), strict=True))
    merged = LoRA(targets="query").merge(base, state.theta)
    assert max_difference(merged["layers"], base["layers"]) > 0, "with the adapter on it is not"


def test_lora_targets_by_role_pattern_and_all(base):
    paths = list(flatten(base))
    assert LoRA(targets="query").modules(paths) == ["layers/0/attention/query", "layers/1/attention/query"]
    assert LoRA(targets="layers/1/.*").modules(paths) == ["layers/1/attention/query"]
    assert len(LoRA(targets="all-linear").modules(paths)) == 2
    block = [f"layers/0/{module}/kernel" for module in ("attention/query", "attention/out", "mlp/gate", "mlp/down")]
    attention, mlp = ["layers/0/attention/query", "layers/0/attention/out"], ["layers/0/mlp/gate", "layers/0/mlp/down"]
    assert LoRA(targets="attention").modules(block) == attention and LoRA(targets="mlp").modules(block) == mlp
    assert LoRA(targets="mlp, query").modules(block) == [attention[0], *mlp]
    with pytest.raises(InputError, match="unknown role quarry"):
        LoRA(targets="quarry").modules(paths)
    with pytest.raises(InputError, match="matches none"):
        LoRA(targets="layers/7/.*").modules(paths)


def test_merged_lora_dropout_keeps_the_mean(base):
    method = LoRA(targets="query", dropout=0.25, merged=True)
    theta = method.init(base, jax.random.key(1))
    for i in "01":
        theta["layers"][i]["attention"]["query"]["lora_b"] += 0.3
    merged = method.merge(base, theta)
    keys = jax.random.split(jax.random.key(5), 4000)
    drawn = jax.vmap(
        lambda k: method.inject(StepContext(base), theta, k)["layers"]["0"]["attention"]["query"]["kernel"]
    )(keys)
    mean = drawn.mean(0)
    error = drawn.std(0).max() / np.sqrt(len(keys))
    assert float(drawn.std(0).max()) > 0
    np.testing.assert_allclose(mean, merged["layers"]["0"]["attention"]["query"]["kernel"], atol=5 * float(error))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (BitFit(), {"layers/0/attention/query/bias", "layers/1/attention/query/bias"}),
        (NormTuning(), {"embed/scale"}),
    ],
)
def test_bitfit_trains_biases_and_norm_tuning_norms_and_both_the_new_head(base, method, expected):
    state, _, multiplier = trained(method, base)
    moved = {path for path, leaf in flatten(state.theta).items() if not bool((leaf == flatten(base)[path]).all())}
    heads = {"heads/new/out/kernel", "heads/new/out/bias"}
    assert moved == expected | heads == {path for path, value in multiplier.items() if value != 0}


@pytest.mark.parametrize("names", ["lora+bitfit", "bitfit+dora"])
def test_a_choice_among_parameters_that_another_method_replaced_is_refused(base, names):
    method = parse_chain(names)
    with pytest.raises(InputError, match=r"none of them is trained here.*such as lora"):
        multipliers(method, method.init(base, jax.random.key(0)), MODEL.depth)


def test_a_freeze_that_matches_nothing_is_rejected(base):
    method = parse_chain("freeze+lora", {"lora": LoRA(targets="layers/1/.*")})
    with pytest.raises(InputError, match=r"freeze would have no effect: freeze\+lora trains nothing that it names"):
        multipliers(method, method.init(base, jax.random.key(0)), MODEL.depth)


@pytest.mark.parametrize("names", ["norm+l2sp", "l2sp+norm"])
def test_norm_tuning_owns_the_tree_and_the_rate_wherever_it_stands(base, names):
    method = parse_chain(names)
    assert method.owner == NormTuning() and method.lr == 5e-4
    alone = {"embed": {"scale": base["embed"]["scale"] + 1}}
    merged = flatten(method.merge(base, alone))
    assert merged.keys() == flatten(base).keys()
    assert [path for path, leaf in merged.items() if leaf is not flatten(base)[path]] == ["embed/scale"]


def test_dora_starts_at_the_columns_lengths_and_leaves_columns_of_zeros(base):
    """m = ‖W‖ by columns; a column of zeros stays zero."""
    method = DoRA(targets="query")
    query = base["layers"]["0"]["attention"]["query"]
    query["kernel"] = query["kernel"].at[:, 1].set(0.0)
    theta = method.init(base, jax.random.key(0))
    adapter = theta["layers"]["0"]["attention"]["query"]
    np.testing.assert_allclose(adapter["lora_magnitude"], np.linalg.norm(query["kernel"], axis=0), rtol=1e-6)
    adapter["lora_b"] += 0.5
    merged = method.merge(base, theta)["layers"]["0"]["attention"]["query"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(merged, axis=0), adapter["lora_magnitude"], rtol=1e-5)
    slope = jax.grad(lambda theta: jnp.sum(flatten(method.merge(base, theta))["layers/0/attention/query/kernel"]))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope(method.init(base, jax.random.key(0)))))


def test_ia3_stretches_outputs_with_their_biases_and_inputs_without(base):
    method = IA3(targets="query")
    theta = method.init(base, jax.random.key(0))
    vector = jnp.asarray([0.5, 1.0, 2.0, -1.0])
    theta["layers"]["0"]["attention"]["query"]["ia3_out"] = vector
    theta["layers"]["1"]["attention"]["query"] = {"ia3_in": vector}
    merged, leaves = flatten(method.merge(base, theta)), flatten(base)
    first, second = "layers/0/attention/query", "layers/1/attention/query"
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    stretched = (x @ leaves[f"{first}/kernel"] + leaves[f"{first}/bias"]) * vector
    np.testing.assert_allclose(x @ merged[f"{first}/kernel"] + merged[f"{first}/bias"], stretched, rtol=1e-5)
    np.testing.assert_allclose(x @ merged[f"{second}/kernel"], (x * vector) @ leaves[f"{second}/kernel"], rtol=1e-5)
    assert bool((merged[f"{second}/bias"] == leaves[f"{second}/bias"]).all())


@pytest.mark.parametrize("kind", [PromptTuning, PrefixTuning])
def test_a_prompt_begins_at_words_and_a_prefix_small_and_both_need_a_place(kind):
    base = toy_params(words=7, keys=2)
    prompt = kind(tokens=5).init(base, jax.random.key(0))["prompt"]
    if kind is PromptTuning:
        words = {tuple(word) for word in np.asarray(base["embed"]["word"]["embedding"]).tolist()}
        assert {tuple(token) for token in prompt["tokens"].tolist()} <= words and prompt["tokens"].shape == (5, 4)
    else:
        assert prompt["prefix"].shape == (5, 2, 2, 2) and 0.01 < float(jnp.std(prompt["prefix"])) < 0.03
    with pytest.raises(InputError, match=f"{kind.name}.tokens must be at least 1"):
        kind(tokens=0)


@pytest.mark.parametrize(
    ("names", "message"),
    [("lora+lora", "names lora twice"), ("lorra", "unknown method 'lorra'"), ("", "unknown method ''")],
)
def test_invalid_chains_are_rejected(names, message):
    with pytest.raises(InputError, match=message):
        parse_chain(names)


def test_two_reparametrisations_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Other(LoRA):
        name = "other"

    with pytest.raises(InputError, match="lora and other each set what is trained"):
        LoRA() + Other()
    with pytest.raises(InputError, match="dora and norm each set what is trained"):
        parse_chain("dora+norm")


def test_settings_of_a_method_not_named_are_refused():
    with pytest.raises(InputError, match="setting of lora"):
        parse_chain("ewc", {"lora": LoRA(rank=2)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"name": "lora", "rnk": 3}], r"method\.0\.rnk"),
        ([{"name": "lora", "rank": "3"}], r"method\.0\.rank"),
        ([{"name": "os.system"}], "unknown method 'os.system'"),
        ({"name": "lora"}, "expected a list"),
    ],
)
def test_methods_from_json_are_strict(data, message):
    with pytest.raises(InputError, match=message):
        from_json(data)


def test_ewc_on_regression_takes_the_residual_variance_of_the_base():
    """σ² is the mean squared residual over real rows, so the exact Fisher is Σ (∂f/∂θ)² / (N σ²)."""
    base = toy_params(heads={"original": 1, "new": 3})
    batch = toy_batch(rows=8, filler=3)
    batch = batch._replace(targets=batch.x[:, 0])
    notes = []
    context = Context(MODEL, base, ("new",), Regress("original"), lambda n, size: [batch], note=notes.append)
    aux = EWC(estimator="exact", way="vmapped").prepare(context, jax.random.key(0))
    predicted = np.asarray(MODEL.apply(base, batch)["logits"]["original"][:5, 0], np.float64)
    sigma = np.sqrt(np.mean((predicted - batch.targets[:5]) ** 2))
    # The head's bias has ∂f/∂b = 1 on every row.
    np.testing.assert_allclose(aux["fisher"]["heads"]["original"]["out"]["bias"], 1 / sigma**2, rtol=1e-5)
    assert f"residual sd {sigma:.4g}" in notes[0] and "over 5 original rows" in notes[0]


def test_a_chain_finishes_with_every_member(base):
    @dataclasses.dataclass(frozen=True)
    class Halfway(Method):
        name = "halfway"

        def parts(self):
            return Parts(finish=lambda base, params: jax.tree.map(lambda b, p: (b + p) / 2, base, params))

    moved = jax.tree.map(lambda x: x + 1.0, base)
    assert max_difference((LoRA() + Halfway()).finish(base, moved), jax.tree.map(lambda x: x + 0.5, base)) < 1e-6


@pytest.mark.parametrize("names", ["full+wise", "lora+wise"])
def test_wise_interpolates_everything_but_a_fresh_head(names, base):
    method = parse_chain(names, {"wise": Wise(alpha=0.25)})
    state, _, _ = trained(method, base)
    merged, start = flatten(method.merge(base, state.theta)), flatten(base)
    finished = flatten(finished_params(method, base, state.theta, ("new",)))
    assert finished.keys() == start.keys()
    for path, leaf in finished.items():
        if path.startswith("heads/new/"):
            np.testing.assert_array_equal(leaf, merged[path], path)
            assert max_difference(leaf, start[path]) > 0
        else:
            old, new = (np.asarray(x, np.float64) for x in (start[path], merged[path]))
            np.testing.assert_allclose(leaf, 0.75 * old + 0.25 * new, atol=1e-6, err_msg=path)
    moved = [
        path for path in finished if not path.startswith("heads/") and max_difference(finished[path], start[path]) > 0
    ]
    assert moved, "parameters outside the heads moved"
    shared = flatten(finished_params(method, base, state.theta, ()))["heads/new/out/kernel"]
    old, new = (np.asarray(x["heads/new/out/kernel"], np.float64) for x in (start, merged))
    np.testing.assert_allclose(shared, 0.75 * old + 0.25 * new, atol=1e-6, err_msg="a shared head is interpolated too")


def test_ewc_notes_that_batched_is_not_the_fisher_and_bounds_its_draws(base):
    notes = []
    EWC(estimator="batched").prepare(context(base)._replace(note=notes.append), jax.random.key(0))
    assert any("warning: the batched estimator squares a mean" in note for note in notes)
    with pytest.raises(InputError, match=r"ewc\.draws must be between 1 and 10,000"):
        EWC(draws=10**20)


def test_ewc_takes_its_strength_in_the_unit_of_rows(base):
    """λ = strength · N_original / N_new."""
    plain, ratio = EWC(strength=3.0, way="vmapped"), EWC(strength=3.0, unit="ratio", way="vmapped")
    rows = context(base)._replace(rows={"original": 80, "new": 20})
    params = jax.tree.map(lambda x: x + 0.1, base)
    penalties = [
        float(m.penalty(StepContext(base, m.prepare(rows, jax.random.key(0))), params)) for m in (plain, ratio)
    ]
    assert penalties[1] == pytest.approx(4 * penalties[0], rel=1e-6)
    with pytest.raises(InputError, match="needs the rows of both tasks"):
        ratio.prepare(context(base), jax.random.key(0))


@pytest.mark.parametrize(("storage", "tolerance"), [("bfloat16", 2**-8), ("int8", 0.02)])
def test_ewc_with_a_small_fisher_pulls_nearly_the_same(base, storage, tolerance):
    params = jax.tree.map(lambda x: x + 0.1, base)
    penalties = []
    for kind in ("float32", storage):
        method = EWC(storage=kind, way="vmapped")
        aux = method.prepare(context(base), jax.random.key(0))
        penalties.append(float(method.penalty(StepContext(base, aux), params)))
    assert penalties[1] == pytest.approx(penalties[0], rel=tolerance) and penalties[1] != penalties[0]


def test_ewc_reads_an_artefact_of_this_base_only(base, tmp_path):
    here = context(base)._replace(base_sha256="this")
    own = EWC(way="vmapped").prepare(here, jax.random.key(0))["fisher"]
    provenance = {
        "base_sha256": "this",
        "model": "base/",
        "estimator": "mc",
        "examples": 5,
        "trace": 1.0,
        "tasks": ["o"],
    }
    save_fisher(tmp_path, own, "float32", provenance | {"data": {"train_rows": 80}})
    method, notes = EWC(fisher=str(tmp_path), unit="ratio"), []
    assert not method.needs and EWC().needs == {"original"}
    alone = here._replace(original=None, batches=None, rows={"new": 20}, note=notes.append)
    aux = method.prepare(alone, jax.random.key(1))
    assert max_difference(aux["fisher"], own) == 0 and float(aux["unit"]) == 4
    assert "Fisher (mc) over 5 original rows" in notes[0]
    with pytest.raises(InputError, match="was measured at other weights, those of base/"):
        method.prepare(alone._replace(base_sha256="other"), jax.random.key(1))
    wider = toy_params(heads={"original": 4, "new": 3})
    with pytest.raises(InputError, match="of another architecture: it has heads/original/out/bias"):
        method.prepare(alone._replace(base=wider), jax.random.key(1))
