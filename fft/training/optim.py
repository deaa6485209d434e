"""One optax optimizer from a method's path rules: a group per learning-rate multiplier, with one gradient clipping."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
import optax

from fft.core.errors import InputError
from fft.core.naming import head_path
from fft.core.programs import shared
from fft.core.tree import Params, flatten, match, unflatten
from fft.experiment import Optim
from fft.methods import Method
from fft.methods.parts import transformation
from fft.training.optimizers import OPTIMIZERS


def multipliers(method: Method, theta: Params, depth: int, unused_heads: tuple[str, ...] = ()) -> dict[str, float]:
    """Return the learning-rate multiplier of every leaf of `theta`: the product over the chained methods, 0 = frozen.

    It is a product rather than the first match over the whole chain, so that `freeze+layerwise` and `layerwise+freeze`
    agree. Heads that the new task does not use are frozen: their loss gradient is zero, and weight decay alone would
    shrink them.

    Raises: InputError for a rule that matches nothing, a member with no rule for these leaves, and when nothing is left
    to train.
    """
    paths = list(flatten(theta))
    product = dict.fromkeys(paths, 1.0)
    for member in method.members:
        rules_of = member.parts().rules
        rules = () if rules_of is None else rules_of(paths, depth)
        if rules_of is not None and not rules:
            raise InputError(f"{member.name} would have no effect: {method.label} trains nothing that it names")
        matched = match((*rules, (".*", 1.0)), paths)
        product = {path: value * matched[path] for path, value in product.items()}
    unused = tuple(map(head_path, unused_heads))
    product = {path: 0.0 if path.startswith(unused) else value for path, value in product.items()}
    if not any(product.values()):
        raise InputError(f"the method {method.label} leaves nothing to train: all {len(paths)} leaves are frozen")
    return product


@shared
def schedule(optim: Optim, steps: int) -> optax.Schedule:
    """Return step -> learning rate: linear warm-up over the first `warmup` share of `steps`, then the chosen schedule.

    "linear" and "cosine" decay to 0.
    """
    peak = optim.lr
    assert peak is not None  # an experiment that runs is resolved
    warmup_steps = round(optim.warmup * steps)
    rest = max(steps - warmup_steps, 1)
    after = {
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "constant": lambda: optax.constant_schedule(peak),
    }[optim.schedule]()
    if warmup_steps == 0:
        return after
    # The warm-up starts at peak / warmup_steps: a first update with rate 0 would be wasted.
    rise = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([rise, after], [warmup_steps])


def make_optimizer(
    theta: Params, multiplier: dict[str, float], optim: Optim, steps: int
) -> optax.GradientTransformation:
    """Return the optimizer over `theta` with per-leaf multipliers; equal settings share one object.

    Leaves with multiplier 0 have no optimizer state, do not count in the global norm and stay bit-equal. Weight decay
    applies to leaves of two or more dimensions. The clipping wraps the groups: inside, it would clip each separately.
    """
    return _optimizer(tuple((path, multiplier[path]) for path in flatten(theta)), optim, steps)


@shared
def _optimizer(multiplier: tuple[tuple[str, float], ...], optim: Optim, steps: int) -> optax.GradientTransformation:
    rate, make = schedule(optim, steps), OPTIMIZERS[optim.optimizer].make

    def decayed(tree: Params) -> Params:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)

    def group(value: float) -> optax.GradientTransformation:
        if value == 0.0:
            return optax.set_to_zero()
        return make(lambda step: rate(step) * value, optim.weight_decay, decayed)

    # Labels become keys of the optimizer state, and those hold no dots on disk.
    label_of = {value: f"rate_{value!r}".replace(".", "_") for _, value in multiplier}
    labels = unflatten({path: label_of[value] for path, value in multiplier})
    groups: dict[Hashable, optax.GradientTransformation] = {label: group(value) for value, label in label_of.items()}
    tx = optax.multi_transform(groups, labels)
    if optim.clip == 0:
        return tx
    trained = unflatten({path: value != 0.0 for path, value in multiplier})
    return optax.chain(optax.masked(_clipping(optim.clip), trained), tx)


def _clipping(limit: float) -> optax.GradientTransformation:
    """Scale gradients so that their global norm is at most `limit`, as optax.clip_by_global_norm does.

    Multiplied by one factor, which XLA fuses into AdamW; it keeps the quotients of optax as a second copy of the tree.
    """

    def clip(gradients: Params, state: optax.EmptyState, params: Params) -> tuple[Params, optax.EmptyState]:
        factor = jnp.minimum(1.0, limit / optax.tree.norm(gradients))
        return jax.tree.map(lambda gradient: gradient * factor, gradients), state

    return transformation(lambda params: optax.EmptyState(), clip)
