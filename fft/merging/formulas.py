"""Formulas that merge trained models without training: interpolation, soups, task arithmetic, TIES, DARE, Fisher.

Models of one architecture are trees of arrays: `base`, θ*, and the models θ or θ_i tuned from it. Heads may differ: a
head that only the base has stays unchanged, one that only tuned models have is averaged over those that have it. Every
other leaf must be in all models, in the same shape; else InputError.

Each formula is one compiled program: hundreds of small ones would take longer to compile than to run.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from fft.core.bounds import Share, check_value
from fft.core.errors import InputError
from fft.core.tree import Params, depth_of, flatten, map_leaves, overlay, unflatten

DareRate = Annotated[float, Interval(ge=0, le=0.999)]

# ---------------------------------------------------------------- interpolation


@jax.jit
def interpolate(base: Params, tuned: Params, alpha: float | jax.Array) -> Params:
    """Return θ* + α (θ − θ*): the base at α = 0, the tuned model at α = 1, both bit for bit.

    Where the two agree (a frozen leaf), the result is their value bit for bit for every α.
    Reference: Wortsman et al. 2021 (WiSE-FT), arXiv 2109.01903, equation 1.
    """
    return _interpolated(base, tuned, lambda path: alpha)


@partial(jax.jit, static_argnames="blocks")
def interpolate_layers(base: Params, tuned: Params, alphas: jax.Array, blocks: int) -> Params:
    """Interpolate with one α per depth: alphas [blocks + 2] for the embeddings, each block, and everything above."""
    return _interpolated(base, tuned, lambda path: alphas[depth_of(path, blocks)])


def _interpolated(base: Params, tuned: Params, alpha_of: Callable[[str], float | jax.Array]) -> Params:
    def of_leaf(path: str, old: jax.Array, new: jax.Array) -> jax.Array:
        alpha = alpha_of(path)
        return jnp.where(alpha == 1, new, old + alpha * (new - old))

    return _with_own_heads(base, [tuned], map_leaves(of_leaf, *shared(base, tuned)))


# ---------------------------------------------------------------- soups


@jax.jit
def uniform_soup(models: Sequence[Params]) -> Params:
    """Return Σ_i θ_i / M over M ≥ 1 tuned models; a head is averaged over those that have it.

    Reference: Wortsman et al. 2022 (model soups), arXiv 2203.05482, section 2.
    """
    common = shared(*models)
    return _with_own_heads({}, models, jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *common))


def greedy_soup(models: Sequence[Params], score: Callable[[Params], float]) -> tuple[Params, tuple[int, ...]]:
    """Return a soup of some of the models, and their indices in `models`.

    The models are added from the best down, each unless it lowers the soup's score (higher is better, on held-out
    rows), so the soup is never worse on those rows than the best model alone.
    Reference: arXiv 2203.05482, recipe 1.
    """
    alone = [score(model) for model in models]
    best, *others = sorted(range(len(models)), key=lambda at: -alone[at])
    chosen, soup, reached = [best], models[best], alone[best]
    for at in others:
        larger = uniform_soup([models[i] for i in (*chosen, at)])
        if (value := score(larger)) >= reached:
            chosen, soup, reached = [*chosen, at], larger, value
    return soup, tuple(chosen)


# ---------------------------------------------------------------- task vectors


@jax.jit
def task_vector(base: Params, tuned: Params) -> Params:
    """Return τ = θ − θ* over the leaves that both have. Reference: Ilharco et al. 2022, arXiv 2212.04089, section 2."""
    old, new = shared(base, tuned)
    return jax.tree.map(jnp.subtract, new, old)


@jax.jit
def add_vectors(base: Params, tuned: Sequence[Params], vectors: Sequence[Params], scale: float = 1.0) -> Params:
    """Return θ* + λ Σ_i τ_i, with the tuned models' own heads added; λ < 0 unlearns.

    Reference: arXiv 2212.04089, section 2.
    """
    moved = jax.tree.map(lambda *leaves: scale * sum(leaves), *vectors)
    return _with_own_heads(base, tuned, map_leaves(lambda path, v, old: old + v, moved, base))


def trimmed(vector: Params, density: float) -> Params:
    """Set all but the ⌊density · d⌋ (at least 1) entries of largest magnitude of a task vector to 0.

    d is the number of entries of all leaves together; ties with the smallest remaining magnitude remain as well.
    Reference: Yadav et al. 2023 (TIES), arXiv 2306.01708, algorithm 1, step 1; the paper uses a density of .2.
    Raises: InputError for a density outside [0, 1].
    """
    check_value("density", density, Share)
    magnitudes = np.concatenate([np.abs(np.ravel(leaf)) for leaf in flatten(vector).values()])
    count = max(1, math.floor(density * len(magnitudes) + 1e-9))
    threshold = np.partition(magnitudes, len(magnitudes) - count)[len(magnitudes) - count]
    return _at_least(vector, threshold)


@jax.jit
def _at_least(vector: Params, threshold: jax.Array) -> Params:
    return jax.tree.map(lambda leaf: jnp.where(jnp.abs(leaf) >= threshold, leaf, 0.0), vector)


@jax.jit
def elected(vectors: Sequence[Params]) -> Params:
    """Merge trimmed task vectors: entry by entry, the mean of the τ_i whose sign is γ = sgn Σ_i τ_i.

    Where the sum is 0, no sign is elected and the result is 0. A single vector is returned unchanged.
    Reference: arXiv 2306.01708, algorithm 1, steps 2 and 3.
    """

    def of_leaf(*leaves: jax.Array) -> jax.Array:
        values = jnp.stack(leaves)
        agree = jnp.sign(values) == jnp.sign(values.sum(0))
        return jnp.sum(values * agree, axis=0) / jnp.maximum(agree.sum(0), 1)

    return jax.tree.map(of_leaf, *vectors)


def dropped(vector: Params, rate: float, key: jax.Array) -> Params:
    """Return m ⊙ τ / (1 − p), m drawn entry by entry, 0 with probability p = `rate`: DARE. Its mean over draws is τ.

    Reference: Yu et al. 2023, arXiv 2311.03099, section 3.
    Raises: InputError for a rate outside [0, .999].
    """
    check_value("rate", rate, DareRate)
    return _dropped(vector, rate, key)


@jax.jit
def _dropped(vector: Params, rate: jax.Array, key: jax.Array) -> Params:
    leaves, tree = jax.tree.flatten(vector)
    # One draw for all leaves: one for each leaf would dominate the compile time.
    drawn = jax.random.bernoulli(key, 1 - rate, (sum(leaf.size for leaf in leaves),))
    parts = jnp.split(drawn, np.cumsum([leaf.size for leaf in leaves])[:-1])
    thinned = [jnp.where(m.reshape(leaf.shape), leaf / (1 - rate), 0.0) for m, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(tree, thinned)


# ---------------------------------------------------------------- Fisher


@jax.jit
def fisher_merge(models: Sequence[Params], fishers: Sequence[Params], weights: Sequence[float]) -> Params:
    """Return Σ_i λ_i F_i θ_i / Σ_i λ_i F_i, entry by entry: the mode of a product of Gaussians with precisions λ_i F_i.

    F_i is the diagonal Fisher information at θ_i, λ_i > 0 its weight; for a leaf that F_i lacks it is 0. Where all F_i
    are 0, the result is the limit of equal information, Σ_i λ_i θ_i / Σ_i λ_i. A head is merged over the models that
    have it.
    Raises: InputError for models of different architectures, and for a Fisher of another shape.
    Reference: Matena and Raffel 2021, arXiv 2111.09832, section 2.
    """
    shared(*models)
    trees, known = [flatten(model) for model in models], [flatten(fisher) for fisher in fishers]

    def of_leaf(path: str) -> jax.Array:
        owners = [at for at, tree in enumerate(trees) if path in tree]
        leaves = jnp.stack([trees[at][path] for at in owners])
        information = [known[at].get(path, np.zeros(leaves.shape[1:], np.float32)) for at in owners]
        if other := [fisher.shape for fisher in information if fisher.shape != leaves.shape[1:]]:
            raise InputError(
                f"the Fisher information of {path} is {other[0]}, the parameter {leaves.shape[1:]}: measure it at this "
                "model with `fft fisher`"
            )
        shares = jnp.stack([weights[at] * fisher for at, fisher in zip(owners, information, strict=True)])
        equal = jnp.reshape(jnp.stack([jnp.asarray(weights[at]) for at in owners]), (-1, *[1] * (leaves.ndim - 1)))
        shares = jnp.where(shares.sum(0) > 0, shares, equal)
        return jnp.sum(shares / shares.sum(0) * leaves, axis=0)

    return unflatten({path: of_leaf(path) for path in sorted({path for tree in trees for path in tree})})


# ---------------------------------------------------------------- which leaves


def shared(*models: Params) -> list[Params]:
    """Restrict the models' trees to the leaves that all of them have.

    Raises: InputError for a leaf outside the heads that some models lack, and for one of different shapes.
    """
    trees = [flatten(model) for model in models]
    common = [path for path in trees[0] if all(path in tree for tree in trees)]
    for path in sorted({path for tree in trees for path in tree}):
        shapes = sorted({tuple(tree[path].shape) for tree in trees if path in tree})
        if len(shapes) > 1:
            raise InputError(f"the models differ in their shapes: {path} is {' and '.join(map(str, shapes))}")
        if path not in common and not path.startswith("heads/"):
            raise InputError(f"the models are of different architectures: not all of them have {path}")
    return [unflatten({path: tree[path] for path in common}) for tree in trees]


def _with_own_heads(base: Params, tuned: Sequence[Params], merged: Params) -> Params:
    """Add to the merged leaves the heads of the base, and of each other head the mean over the models that have it."""
    leaves = flatten(overlay(base, merged))
    added: dict[str, list] = {}
    for model in tuned:
        for path, leaf in flatten(model).items():
            if path not in leaves:
                added.setdefault(path, []).append(leaf)
    return unflatten({**leaves, **{path: sum(values) / len(values) for path, values in added.items()}})
