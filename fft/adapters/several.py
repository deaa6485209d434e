"""Several adapters of one base: one of them, a weighted sum of LoRAs, or none.

With the weights w_i and the adapters' scales s_i, a kernel W becomes

    W + Σ_i w_i s_i A_i·B_i = W + [A_1 A_2 …] · [w_1 s_1 B_1; w_2 s_2 B_2; …],

so that the sum is again a LoRA, of the summed rank and of scale 1. It is exact, whatever ranks and scales they have.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fft.adapters.adapter import Adapter
from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.tree import flatten, unflatten
from fft.methods import LoRA, RsLoRA
from fft.methods.lora import A, B, modules_of
from fft.models import Checkpoint, Head
from fft.models.files.keys import listed
from fft.models.heads import unused_head

ENDS = ("embed/word/", "unembed/")


class Adapters(NamedTuple):
    """Several adapters of one base, none of which is merged until it is asked for; the base never changes.

    Example: `Adapters(base, {"tweets": load_adapter("tweets/", base)}).active("tweets").params`
    """

    base: Checkpoint
    adapters: Mapping[str, Adapter]
    __repr__ = brief

    def active(self, name: str | None = None) -> Checkpoint:
        """Return the base with the adapter `name` merged; without a name the base itself, unchanged.

        Raises: InputError for a name that is not among the adapters.
        """
        return self.base if name is None else self._named(name).on(self.base)

    def weighted(self, weights: Mapping[str, float]) -> Adapter:
        """Return Σ weight · adapter over the named LoRA adapters. See `weighted_sum`.

        Raises: InputError as `active` and `weighted_sum`.
        Example: `adapters.weighted({"tweets": 0.7, "reviews": 0.3}).on(adapters.base)`
        """
        return weighted_sum(self.base, {name: self._named(name) for name in weights}, weights)

    def _named(self, name: str) -> Adapter:
        if name not in self.adapters:
            raise InputError(f"there is no adapter {name!r}; loaded are: {', '.join(self.adapters) or 'none'}")
        return self.adapters[name]


def weighted_sum(base: Checkpoint, adapters: Mapping[str, Adapter], weights: Mapping[str, float]) -> Adapter:
    """Return the sum over LoRA and rsLoRA adapters of `base` of their updates times `weights`, as one adapter.

    Heads are not summed: the adapter has those of all, and the primary one of the first that has any. One that an
    earlier adapter has by this name with other values gets a new name, which a note tells. Texts are cut to the longest
    of the lengths.

    Raises: InputError for no adapters, a weight that is not finite, adapters of other methods, adapters that hold more
    than matrices and heads, and tied embeddings that only some of the adapters tie.
    """
    if not adapters:
        raise InputError("there are no adapters to sum: name at least one with its weight")
    for name, adapter in adapters.items():
        refuse_not_summed(name, adapter, weights[name], base)
    refuse_ties_that_differ(adapters)
    leaves = {name: flatten(adapter.theta) for name, adapter in adapters.items()}
    theta = {}
    for module in sorted({module for own in leaves.values() for module in modules_of(own)}):
        mine = [name for name in adapters if f"{module}/{A}" in leaves[name]]
        scaled = [weights[name] * scale_of(adapters[name]) * leaves[name][f"{module}/{B}"] for name in mine]
        theta[f"{module}/{A}"] = jnp.concatenate([leaves[name][f"{module}/{A}"] for name in mine], axis=1)
        theta[f"{module}/{B}"] = jnp.concatenate(scaled, axis=0)
    rank = max(leaf.shape[1] for path, leaf in theta.items() if path.endswith(A))
    parameters, heads, primary, notes = joined_heads(base, adapters)
    return Adapter(
        LoRA(rank=rank, alpha=float(rank)),
        unflatten({**theta, **parameters}),
        heads,
        primary,
        tuple(dict.fromkeys([*(note for adapter in adapters.values() for note in adapter.notes), *notes])),
        max((length for adapter in adapters.values() if (length := adapter.max_length) is not None), default=None),
        any(adapter.unties for adapter in adapters.values()),
    )


def scale_of(adapter: Adapter) -> float:
    """Return the scale s of a LoRA or rsLoRA adapter."""
    assert isinstance(adapter.method, LoRA)
    return adapter.method.scale


def refuse_not_summed(name: str, adapter: Adapter, weight: float, base: Checkpoint) -> None:
    """Refuse an adapter that is more than an update of low rank, and a weight that is no number. Raises: InputError."""
    if not math.isfinite(weight):
        raise InputError(f"the weight of the adapter {name} is {weight}: give a finite number")
    advice = "sum LoRA and rsLoRA adapters only, or use one adapter alone, without a weight"
    if type(adapter.method) not in (LoRA, RsLoRA):
        raise InputError(f"the adapter {name} is one of {adapter.method.name}, whose updates do not add up: {advice}")
    known = flatten(base.params)
    own = {path: leaf for path, leaf in flatten(adapter.theta).items() if not path.endswith((A, B))}
    changed = [path for path, leaf in own.items() if not path.startswith("heads/") and not _same(leaf, known.get(path))]
    if changed:
        raise InputError(
            f"the adapter {name} holds {listed(changed)} in full, which a sum of updates cannot weight: {advice}, or "
            "merge it first, by fft export BASE --adapter DIR"
        )


def refuse_ties_that_differ(adapters: Mapping[str, Adapter]) -> None:
    """Refuse adapters of tied embeddings of which some keep the language head tied. Raises: InputError."""
    ties = {
        name: adapter.unties
        for name, adapter in adapters.items()
        if any(path.startswith(ENDS) for path in flatten(adapter.theta))
    }
    if len(set(ties.values())) > 1:
        apart, tied = (next(name for name in ties if ties[name] is value) for value in (True, False))
        raise InputError(
            f"the adapter {tied} changes word embeddings and language head together, as they are tied, and {apart} one "
            "of them alone, so that their sum is not defined: leave one of the two adapters out"
        )


def joined_heads(
    base: Checkpoint, adapters: Mapping[str, Adapter]
) -> tuple[dict[str, Any], dict[str, Head], str | None, list[str]]:
    """Return ({path: array} of the adapters' heads, {name: Head}, the primary head, notes on heads of new names).

    Heads that equal the base's are left out.
    """
    parameters: dict[str, dict[str, Any]] = {}
    heads: dict[str, Head] = {}
    primary, notes = None, []
    for name, adapter in adapters.items():
        renamed = {}
        for head, described in adapter.heads.items():
            own = flatten(adapter.theta.get("heads", {}).get(head, {}))
            if _equal(own, flatten(base.params.get("heads", {}).get(head, {}))):
                continue
            if head in parameters and not _equal(own, parameters[head]):
                renamed[head] = unused_head(None, head, [*base.heads, *heads])
                notes.append(f"the head {head} of the adapter {name} is called {renamed[head]} here")
            named = renamed.get(head, head)
            parameters[named], heads[named] = own, described
        if primary is None and adapter.primary is not None:
            primary = renamed.get(adapter.primary, adapter.primary)
    flat = {f"heads/{head}/{path}": leaf for head, own in parameters.items() for path, leaf in own.items()}
    return flat, heads, primary, notes


def _equal(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return own.keys() == other.keys() and all(_same(leaf, other[path]) for path, leaf in own.items())


def _same(leaf: Any, other: Any) -> bool:
    return other is not None and np.array_equal(np.asarray(leaf), np.asarray(other))
