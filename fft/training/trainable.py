"""The trainable tree of a method on a base, with its optimizer and initial state."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from fft.core.naming import UNEMBED
from fft.core.seeding import key_for
from fft.core.tree import Params, count, flatten
from fft.experiment import Optim
from fft.methods import Method, StepContext
from fft.models import Checkpoint
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import TrainState, init_state


class Trainable(NamedTuple):
    """The trainable tree of a method on a base, with its optimizer and initial state."""

    theta: Params
    """its shapes, as jax.ShapeDtypeStructs"""
    multiplier: dict[str, float]
    """the learning-rate multiplier of each leaf, by path"""
    tx: optax.GradientTransformation
    """the optimizer, without the method's own wrappers"""
    init: Callable[[], TrainState]
    """returns the state before step 1"""


def trained_leaves(method: Method, checkpoint: Checkpoint) -> tuple[Params, dict[str, float]]:
    """Return the shapes of the trainable tree, and the learning-rate multiplier of each leaf by path.

    The checkpoint may hold shapes only.
    """
    theta = jax.eval_shape(method.init, checkpoint.params, jax.random.key(0))
    unused = tuple(name for name in (*checkpoint.params.get("heads", {}), UNEMBED) if name != checkpoint.primary)
    return theta, multipliers(method, theta, checkpoint.model.depth, unused)


def make_trainable(
    method: Method, optim: Optim, checkpoint: Checkpoint, aux: Params, steps: int, seed: int, watched: int = 0
) -> Trainable:
    """Return the Trainable of a method on a checkpoint whose primary head is the new task's.

    `aux` are the method's prepared statistics, `watched` is the number of original tasks under a contract.
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
    """Return {'total', 'trained', 'percent', 'table': [{'path', 'shape', 'trained', 'multiplier'}]} of base and theta.

    A leaf that the method adds (a LoRA matrix) counts towards the total; a base leaf that is not in theta is frozen.
    """
    leaves = {**flatten(base), **flatten(trainable.theta)}
    table = [
        {"path": path, "shape": list(leaf.shape), "trained": m != 0.0, "multiplier": m}
        for path, leaf, m in ((path, leaf, trainable.multiplier.get(path, 0.0)) for path, leaf in leaves.items())
    ]
    trained = count({row["path"]: leaves[row["path"]] for row in table if row["trained"]})
    total = count(leaves)
    return {"total": total, "trained": trained, "percent": 100 * trained / total, "table": table}
