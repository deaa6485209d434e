"""Checkpoints that are computed differently: in the format of a Computation, or with a language head of their own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import jax.numpy as jnp

from fft.core.computation import Computation, widened
from fft.core.tree import flatten, map_leaves
from fft.models.model import Checkpoint, Family, build


def computed(checkpoint: Checkpoint, computation: Computation, families: Mapping[str, Family]) -> Checkpoint:
    """Return the checkpoint with a model for the computation, and parameters in the format of its `base_dtype`.

    bfloat16 are the leaves with two axes outside heads, which are nearly all of a model; the others stay float32. A
    note says so if it changed them.
    """
    model = build(families[checkpoint.model.family], checkpoint.model.config, computation)
    precise = checkpoint._replace(model=model, params=widened(checkpoint.params))
    if computation.base_dtype == "float32":
        return precise
    rounded = precise._replace(
        params=map_leaves(
            lambda path, leaf: leaf if leaf.ndim != 2 or path.startswith("heads/") else leaf.astype(jnp.bfloat16),
            precise.params,
        )
    )
    if not (change := largest_change(precise, rounded)):
        return rounded
    note = (
        f"--base-dtype bfloat16 rounds the matrices of the base, by up to {change:.2g} of a value: all scores are of "
        "the rounded base, and differ a little from those of the adapter on the stored weights"
    )
    return rounded._replace(notes=(*checkpoint.notes, note))


def untied(checkpoint: Checkpoint, families: Mapping[str, Family]) -> Checkpoint:
    """Return the checkpoint of a language model with a language head of its own, equal to the word embeddings.

    Its config.json then says tie_word_embeddings false. One that is not tied is returned unchanged.
    """
    model, params = checkpoint.model, checkpoint.params
    if not model.config.shape.tied:
        return checkpoint
    config = replace(cast("Any", model.config), tie_word_embeddings=False)
    unembed = {**params.get("unembed", {}), "kernel": params["embed"]["word"]["embedding"].T}
    return checkpoint._replace(
        model=build(families[model.family], config, model.computation),
        params={**params, "unembed": unembed},
        raw_config={**checkpoint.raw_config, "tie_word_embeddings": False},
    )


def largest_change(before: Checkpoint, after: Checkpoint) -> float:
    """Return the largest relative change of a parameter between two checkpoints with equal trees."""
    changed = flatten(widened(after.params))
    return max(
        float(jnp.max(jnp.abs(leaf - changed[path]) / jnp.maximum(jnp.abs(leaf), jnp.finfo(jnp.float32).tiny)))
        for path, leaf in flatten(before.params).items()
    )
