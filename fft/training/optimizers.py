"""The optimizers by name, all from optax, with decoupled weight decay: θ ← θ − rate · weight_decay · θ at each step."""

from collections.abc import Callable
from typing import NamedTuple

import optax

from fft.core.tree import Params

Mask = Callable[[Params], Params]


class Optimizer(NamedTuple):
    """An optimizer and its default learning rate."""

    make: Callable[[optax.Schedule, float, Mask], optax.GradientTransformation]
    """make(rate, weight_decay, mask) -> the transformation; `mask` selects the leaves that decay"""
    lr_factor: float
    """default learning rate relative to AdamW's, as measured by experiments/optimizers.py"""


def _adamw(rate: optax.Schedule, weight_decay: float, mask: Mask) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=weight_decay, mask=mask)


def _lion(rate: optax.Schedule, weight_decay: float, mask: Mask) -> optax.GradientTransformation:
    return optax.lion(rate, weight_decay=weight_decay, mask=mask)


def _sgd(rate: optax.Schedule, weight_decay: float, mask: Mask) -> optax.GradientTransformation:
    return optax.chain(
        optax.trace(decay=0.9),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(rate),
    )


def _adafactor(rate: optax.Schedule, weight_decay: float, mask: Mask) -> optax.GradientTransformation:
    # optax applies this decay after the learning rate, so it has to be multiplied by the rate here.
    return optax.adafactor(rate, weight_decay_rate=lambda step: rate(step) * weight_decay, weight_decay_mask=mask)


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(_adamw, 1.0),
    "lion": Optimizer(_lion, 0.25),
    "sgd": Optimizer(_sgd, 250.0),
    "adafactor": Optimizer(_adafactor, 25.0),
}
