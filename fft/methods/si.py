"""Synaptic intelligence: a parameter's contribution to the fall of the loss in one run is its penalty in the next."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.bounds import NonNegative, Positive
from fft.core.errors import InputError
from fft.core.settings import TELLS_DEFAULT
from fft.core.tree import Params, flatten, map_leaves
from fft.disk.artefact import load_artefact
from fft.disk.local import LOCAL
from fft.methods.base import Method
from fft.methods.context import Context, EarlierRun
from fft.methods.parts import Parts, StepContext, transformation, updates_of
from fft.methods.sums import leaf_sum
from fft.methods.trees import BASE_TREE

if TYPE_CHECKING:
    import optax


class PathIntegral(NamedTuple):
    """The inner optimizer's state and ω = −Σ_steps gradient · update, shaped like the trainable tree."""

    inner: "optax.OptState"
    omega: Params


@dataclass(frozen=True)
class SI(Method):
    """Collect  ω = −Σ_steps g ⊙ Δθ  of this run, and with `after` add  c Σ Ω ⊙ (θ − θ*)²,
    Ω = max(ω, 0) / ((θ_end − θ_start)² + ξ)  of the run that produced the base θ*, plus the Ω of its own penalty.

    g is the gradient of the objective without this method's own term, Δθ the full update. A run without `after` only
    collects ω for the next run: ω cannot be computed for a base that was trained elsewhere.

    Reference: Zenke, Poole and Ganguli 2017, arXiv 1703.04200, equations 3 to 5.
    """

    name: ClassVar[str] = "si"
    strength: NonNegative = 1.0
    """c"""
    damping: Positive = 1e-3
    """ξ, in squared units of the parameters"""
    after: Annotated[str | None, TELLS_DEFAULT, LOCAL] = None
    """the folder of the run whose model/ is the base; its method must include si"""

    def continued(self, run: str | None, fisher: str | None) -> "SI":
        return SI() if run is None else dataclasses.replace(self, after=run)

    def parts(self) -> Parts:
        always = Parts(tree=BASE_TREE, check=self._check, observe=self._observe, leave=_leave)
        if self.after is None:
            return always
        return always._replace(prepare=partial(self._prepare, self.after), pull=self._pull)

    def _check(self, context: Context) -> None:
        """Reject an earlier run that did not collect ω, or whose model is not the base.

        Raises: InputError.
        """
        if self.after is None and self != SI():
            raise InputError(
                "--si.strength and --si.damping have no effect without an earlier run: give --si.after RUN"
            )
        if self.after is None:
            context.note("si: without --si.after there is no penalty; this run collects for the next one")
        else:
            importance(self.after, context.base, self.damping, context.earlier)

    def _prepare(self, after: str, context: Context, key: jax.Array) -> Params:
        """Return {"omega": Ω of the base's own leaves, "anchor": θ*}."""
        anchors = {path: leaf for path, leaf in flatten(context.base).items() if not context.is_fresh(path)}
        omega = importance(after, anchors, self.damping, context.earlier)
        total = float(leaf_sum(jnp.sum(leaf) for leaf in jax.tree.leaves(omega)))
        context.note(f"SI: importance of {after}: sum {total:.4g}")
        return {"omega": omega, "anchor": map_leaves(lambda path, _: anchors[path], omega)}

    def _pull(self, now: StepContext) -> tuple[float, Params]:
        return self.strength, now.aux["omega"]

    def _observe(self, tx: "optax.GradientTransformation", now: StepContext) -> "optax.GradientTransformation":
        weights, anchors = (flatten(now.aux.get(part, {})) for part in ("omega", "anchor"))

        def own_gradient(path: str, leaf: jax.Array) -> jax.Array | float:
            """Return the gradient of this method's own term."""
            return 2 * self.strength * weights[path] * (leaf - anchors[path]) if path in weights else 0.0

        def update(gradients: Params, state: PathIntegral, params: Params) -> tuple[Params, PathIntegral]:
            updates, inner = updates_of(tx, gradients, state.inner, params)

            def of_leaf(
                path: str, omega: jax.Array, gradient: jax.Array, change: jax.Array, leaf: jax.Array
            ) -> jax.Array:
                return omega - (gradient - own_gradient(path, leaf)) * change if now.is_trained(path) else omega

            return updates, PathIntegral(inner, map_leaves(of_leaf, state.omega, gradients, updates, params))

        return transformation(
            lambda params: PathIntegral(tx.init(params), jax.tree.map(jnp.zeros_like, params)), update
        )


def _leave(opt_state: "optax.OptState") -> Params:
    return {"omega": path_integral(opt_state)}


def importance(folder: str, base: Params, damping: float, earlier: Callable[[str], EarlierRun]) -> Params:
    """Return Ω of the base's leaves after the run in `folder`, including the Ω of that run's own penalty.

    Raises: InputError if it is not a finished run, did not collect ω, or its model is not `base`.
    """
    if not (Path(folder) / "run.json").is_file():
        raise InputError(f"--si.after {folder}: expected the folder of a finished run")
    run = earlier(folder)
    members = run.experiment.method.members
    if "si" not in [member.name for member in members]:
        raise InputError(
            f"--si.after {folder}: its method is {run.experiment.method.label}, which does not collect ω, and that "
            "cannot be done afterwards: train it again with si in --method"
        )
    start, end, leaves = run.checkpoint.params, flatten(run.params), flatten(base)
    if leaves.keys() != end.keys() or not all(np.array_equal(leaves[path], leaf) for path, leaf in end.items()):
        raise InputError(f"--si.after {folder}: --model is not the model of that run: give --model {folder}/model")
    prepared = load_artefact(Path(folder) / "prepared")[0]
    collected, penalty = (tree if len(members) == 1 else tree.get("si", {}) for tree in (run.left(), prepared))
    return importance_of(collected["omega"], start, run.params, damping, penalty.get("omega"))


def importance_of(omega: Params, start: Params, end: Params, damping: float, earlier: Params | None = None) -> Params:
    """Return Ω = Σ over tasks of max(ω, 0) / ((θ_end − θ_start)² + ξ), equation 5.

    `omega` is the path integral ω of the last task, trained from `start` to `end`; `earlier` is the sum before it.
    """
    starts, ends, earlier_leaves = flatten(start), flatten(end), flatten(earlier or {})

    def of_leaf(path: str, integral: jax.Array) -> jax.Array:
        last = jnp.maximum(integral, 0.0) / (jnp.square(ends[path] - starts[path]) + damping)
        return last + earlier_leaves.get(path, 0.0)

    return map_leaves(of_leaf, omega)


def path_integral(opt_state: "optax.OptState") -> Params:
    """Return ω from the optimizer state of a run with si."""
    (state,) = (s for s in jax.tree.leaves(opt_state, is_leaf=_is_integral) if _is_integral(s))
    return state.omega


def _is_integral(state: object) -> bool:
    return isinstance(state, PathIntegral)
