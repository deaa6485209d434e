"""The formulas of `fft merge --how` and their settings: one model from a base and models tuned from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from fft.core.bounds import Finite, Positive, Seed, Share, check_bounds
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT, for_each
from fft.core.tree import Params, overlay
from fft.merging import formulas
from fft.merging.formulas import DareRate


@dataclass(frozen=True)
class FormulaSettings:
    """Settings of the formulas of --how; each formula reads some of them."""

    alpha: Finite = 0.5
    """interpolate: 0 is BASE, 1 is TUNED"""
    layers: Annotated[tuple[Finite, ...], TELLS_DEFAULT] = ()
    """interpolate: an α for the embeddings, one for each block, one for everything above; replaces --alpha"""
    scale: tuple[Finite, ...] = (1.0,)
    """arithmetic, ties, dare: λ; for arithmetic and dare one for all or one for each TUNED; λ < 0 unlearns"""
    density: Share = 0.2
    """ties: the share of a task vector's entries that is not set to 0, the largest ones"""
    rate: DareRate = 0.5
    """dare: the probability with which an entry of a task vector is dropped"""
    seed: Seed = 0
    """dare: the seed of the dropped entries"""
    fisher: Annotated[tuple[Path, ...], TELLS_DEFAULT] = ()
    """fisher: the folders that `fft fisher` wrote at each TUNED, in their order"""
    weights: tuple[Positive, ...] = (1.0,)
    """fisher: λ, one for all or one for each TUNED"""

    def __post_init__(self) -> None:
        check_bounds(self)


class Models(NamedTuple):
    """The models to merge; `tuned` have every leaf that `base` has, and heads of the same name are of the same kind."""

    base: Params
    tuned: Sequence[Params]
    blocks: int
    fishers: Sequence[Params]
    """the Fisher information at each tuned model, only for `fisher`"""


class Way(NamedTuple):
    """A way to merge: the settings it reads, the fewest and most tuned models it takes, and its function."""

    reads: tuple[str, ...]
    fewest: int
    most: float
    make: Callable[[Models, FormulaSettings], Params]


def interpolate(models: Models, settings: FormulaSettings) -> Params:
    """Return θ* + α (θ − θ*), with one α or one per depth.

    Raises: InputError for a number of `layers` other than blocks + 2.
    """
    (tuned,) = models.tuned
    if not settings.layers:
        return formulas.interpolate(models.base, tuned, settings.alpha)
    if len(settings.layers) != models.blocks + 2:
        raise InputError(
            f"--layers takes {models.blocks + 2} numbers for these models, not {len(settings.layers)}: one for the "
            f"embeddings, one for each of {models.blocks} blocks, and one for everything above"
        )
    return formulas.interpolate_layers(models.base, tuned, jnp.asarray(settings.layers), models.blocks)


def soup(models: Models, settings: FormulaSettings) -> Params:
    """Return Σ_i θ_i / M."""
    return formulas.uniform_soup(models.tuned)


def arithmetic(models: Models, settings: FormulaSettings) -> Params:
    """Return θ* + Σ_i λ_i (θ_i − θ*)."""
    return formulas.add_vectors(models.base, models.tuned, _scaled(_vectors(models), settings.scale))


def ties(models: Models, settings: FormulaSettings) -> Params:
    """Return θ* + λ elected(trimmed(θ_i − θ*)).

    Raises: InputError for more than one λ.
    """
    if len(settings.scale) != 1:
        raise InputError(
            "--how ties takes one --scale, for the task vector that the models elect together: give one number"
        )
    vectors = [formulas.trimmed(vector, settings.density) for vector in _vectors(models)]
    return formulas.add_vectors(models.base, models.tuned, [formulas.elected(vectors)], settings.scale[0])


def dare(models: Models, settings: FormulaSettings) -> Params:
    """Return θ* + Σ_i λ_i dropped(θ_i − θ*), with independent draws for each θ_i."""
    keys = jax.random.split(jax.random.key(settings.seed, impl="threefry2x32"), len(models.tuned))
    vectors = [formulas.dropped(vector, settings.rate, key) for vector, key in zip(_vectors(models), keys, strict=True)]
    return formulas.add_vectors(models.base, models.tuned, _scaled(vectors, settings.scale))


def fisher(models: Models, settings: FormulaSettings) -> Params:
    """Return Σ_i λ_i F_i θ_i / Σ_i λ_i F_i, entry by entry."""
    weights = for_each("weights", settings.weights, len(models.tuned), "TUNED model", 1.0)
    return formulas.fisher_merge(models.tuned, models.fishers, weights)


WAYS = {
    "interpolate": Way(("alpha", "layers"), 1, 1, interpolate),
    "soup": Way((), 2, math.inf, soup),
    "arithmetic": Way(("scale",), 1, math.inf, arithmetic),
    "ties": Way(("scale", "density"), 1, math.inf, ties),
    "dare": Way(("scale", "rate", "seed"), 1, math.inf, dare),
    "fisher": Way(("fisher", "weights"), 2, math.inf, fisher),
}


def merged(how: str, models: Models, settings: FormulaSettings) -> Params:
    """Merge the models; heads that only the base has stay unchanged."""
    return overlay({"heads": models.base.get("heads", {})}, WAYS[how].make(models, settings))


def check(how: str, count: int, settings: FormulaSettings) -> None:
    """Reject a number of tuned models that `how` does not take, and settings that it does not read.

    Raises: InputError for these.
    """
    way, defaults = WAYS[how], FormulaSettings()
    if not way.fewest <= count <= way.most:
        takes = "one TUNED" if way.most == 1 else f"at least {way.fewest} TUNED"
        raise InputError(f"--how {how} takes {takes} beside BASE, not {count}")
    for name in vars(defaults):
        if name not in way.reads and getattr(settings, name) != getattr(defaults, name):
            raise InputError(f"--{name} is not read by --how {how}, which reads {' and '.join(way.reads) or 'none'}")
    if "fisher" in way.reads and len(settings.fisher) != count:
        raise InputError(
            f"--how {how} needs --fisher with one folder for each TUNED, {count} of them, not {len(settings.fisher)}: "
            "measure them with `fft fisher`"
        )


def _vectors(models: Models) -> list[Params]:
    return [formulas.task_vector(models.base, tuned) for tuned in models.tuned]


def _scaled(vectors: Sequence[Params], scale: Sequence[float]) -> list[Params]:
    factors = for_each("scale", tuple(scale), len(vectors), "TUNED model", 1.0)
    return [jax.tree.map(lambda leaf, by=by: by * leaf, vector) for by, vector in zip(factors, vectors, strict=True)]
