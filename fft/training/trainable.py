"""The trainable tree of a method: its shapes, the rate of each leaf, the optimizer, the state at step 0."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from fft.core.seeding import key_for
from fft.core.tree import Params, count, flatten
from fft.experiment import Optim
from fft.methods import Method, StepContext
from fft.models import Checkpoint
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import TrainState, init_state


class Trainable(NamedTuple):
    """The trainable tree of a method on a base: its shapes, each leaf's rate, the optimizer, the state at step 0."""

    theta: Params
    """jax.ShapeDtypeStructs"""
    multiplier: dict[str, float]
    tx: optax.GradientTransformation
    """without what the method puts around it"""
    init: Callable[[], TrainState]


def trained_leaves(method: Method, checkpoint: Checkpoint) -> tuple[Params, dict[str, float]]:
    """The shapes of the trainable tree and the rate multiplier of each leaf; the checkpoint may hold shapes alone."""
    theta = jax.eval_shape(method.init, checkpoint.params, jax.random.key(0))
    unused = tuple(name for name in checkpoint.params["heads"] if name != checkpoint.primary)
    return theta, multipliers(method, theta, checkpoint.model.depth, unused)


def make_trainable(
    method: Method, optim: Optim, checkpoint: Checkpoint, aux: Params, steps: int, seed: int, watched: int = 0
) -> Trainable:
    """The trainable tree of a method on a checkpoint whose primary head is the new task's; `watched` is the number of
    original tasks that a contract watches.
    """
    base = checkpoint.params
    theta, multiplier = trained_leaves(method, checkpoint)
    tx = make_optimizer(theta, multiplier, optim, steps)
    wrapped = method.transform(tx, StepContext(base, aux))

    def init() -> TrainState:
        theta = method.init(base, key_for(seed, "init"))
        return init_state(theta, wrapped, key_for(seed, "train"), watched)

    return Trainable(theta, multiplier, tx, init)


def parameter_counts(base: Params, trainable: Trainable) -> dict:
    """{'total', 'trained', 'percent', 'table': [{'path', 'shape', 'trained', 'multiplier'}]} over base and theta.

    A leaf the method adds (a LoRA matrix) counts towards the total; a base leaf that theta leaves out is frozen.
    """
    leaves = {**flatten(base), **flatten(trainable.theta)}
    table = [
        {"path": path, "shape": list(leaf.shape), "trained": m != 0.0, "multiplier": m}
        for path, leaf, m in ((path, leaf, trainable.multiplier.get(path, 0.0)) for path, leaf in leaves.items())
    ]
    trained = count({row["path"]: leaves[row["path"]] for row in table if row["trained"]})
    total = count(leaves)
    return {"total": total, "trained": trained, "percent": 100 * trained / total, "table": table}
