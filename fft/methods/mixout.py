"""Mixout: in every training step random weights are replaced by the base's, which keeps the others near it."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.bounds import DropShare
from fft.core.errors import InputError
from fft.core.tree import Params, flatten, overlay, unflatten
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.parts import Parts, StepContext
from fft.methods.trees import BASE_TREE


@dataclass(frozen=True)
class Mixout(Method):
    """Compute a step with  ((1 − M) ⊙ θ + M ⊙ θ* − p θ*) / (1 − p)  in place of every kernel θ, M drawn anew from
    Bernoulli(p) for each weight; its mean over M is θ. θ* is the base's kernel. Scoring takes θ itself.

    A fresh head has no original value and is not mixed. With θ* = 0 this would be dropout of weights.

    Reference: Lee, Cho and Kang 2020, arXiv 1909.11299, equation 5.
    """

    name: ClassVar[str] = "mixout"
    probability: DropShare = 0.7
    """p, the probability that a weight of a kernel is the base's in a step"""

    def parts(self) -> Parts:
        return Parts(tree=BASE_TREE, prepare=_prepare, mix=self._mix)

    def _mix(self, now: StepContext, params: Params, key: jax.Array) -> Params:
        anchors, values, p = flatten(now.base), flatten(params), self.probability
        mixed = {}
        for at, path in enumerate(sorted(flatten(now.aux))):
            drawn = jax.random.bernoulli(jax.random.fold_in(key, at), p, values[path].shape)
            mixed[path] = (jnp.where(drawn, anchors[path], values[path]) - p * anchors[path]) / (1 - p)
        return overlay(params, unflatten(mixed))


def _prepare(context: Context, key: jax.Array) -> Params:
    """Return one scalar for each trained kernel of the base, fresh heads excluded.

    Raises: InputError if there is none.
    """
    mixed = {path: leaf for path, leaf in flatten(context.is_original()).items() if path.endswith("/kernel")}
    mixed = {path: leaf for path, leaf in mixed.items() if leaf > 0 and context.is_trained(path)}
    if not mixed:
        raise InputError(
            "mixout: no kernel of the base is trained, and other parameters are not mixed: leave mixout out"
        )
    return unflatten(mixed)
