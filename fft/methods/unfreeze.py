"""Gradual unfreezing: train the top of the model first, and one more block every few steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from fft.core.bounds import Count
from fft.core.settings import TELLS_DEFAULT
from fft.core.tree import Params, depth_of, map_leaves
from fft.methods.base import Method
from fft.methods.context import Context
from fft.methods.parts import Parts, StepContext, transformation, updates_of

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class Unfreeze(Method):
    """Train what is above the blocks from the first step, block i of n from step  every · (n − i), and the embeddings
    from step  every · (n + 1); steps are counted from 0. Before that a leaf does not change by a bit.

    Reference: Howard and Ruder 2018 (ULMFiT), arXiv 1801.06146, section 3.3.
    """

    name: ClassVar[str] = "unfreeze"
    every: Annotated[Count | None, TELLS_DEFAULT] = None
    """steps from one block to the next (default: so that everything is trained after half of the run)"""

    def parts(self) -> Parts:
        return Parts(prepare=self._prepare, confine=_gated)

    def _prepare(self, context: Context, key: jax.Array) -> Params:
        """Return {"every": steps from block to block, "blocks": n}, int32 []."""
        blocks = len(context.base["layers"])
        every = self.every or max(1, context.steps // (2 * (blocks + 1)))
        if every * (blocks + 1) >= context.steps:
            context.note(
                f"unfreeze: with one more block every {every} steps, {context.steps} steps do not unfreeze everything"
            )
        return {"every": jnp.int32(every), "blocks": jnp.int32(blocks)}


def _gated(tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
    return gated(tx, lambda path: now.aux["every"] * (now.aux["blocks"] + 1 - depth_of(path, now.aux["blocks"])))


class Gated(NamedTuple):
    """The inner optimizer's state and the number of updates so far, int32 []."""

    inner: "optax.OptState"
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  # the name in saved steps, and in optax


def gated(
    tx: "optax.GradientTransformation", opens: Callable[[str], jax.Array | int]
) -> "optax.GradientTransformation":
    """Wrap `tx`: the updates of a leaf are 0 before update number `opens(path)`, counted from 0.

    `tx` sees all gradients, so that when a leaf is unfrozen its moments are those of recent steps. Moments that started
    from 0 in the middle of a run would make Adam's first updates some three times too large, because its bias
    correction counts the steps of the run.
    """

    def update(gradients: Params, state: Gated, params: Params) -> tuple[Params, Gated]:
        updates, inner = updates_of(tx, gradients, state.inner, params)
        updates = map_leaves(lambda path, u: jnp.where(state.count >= opens(path), u, 0.0), updates)
        return updates, Gated(inner, state.count + 1)

    return transformation(lambda params: Gated(tx.init(params), jnp.zeros((), jnp.int32)), update)
