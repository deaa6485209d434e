"""DoRA: LoRA changes the directions of a kernel's columns, and their lengths are trained separately."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fft.core.tree import Params, flatten, overlay, unflatten
from fft.methods.lora import LoRA, modules_of, weight_of

MAGNITUDE, GAIN = "lora_magnitude", "lora_gain"


@dataclass(frozen=True)
class DoRA(LoRA):
    """W' = m ⊙ V / ‖V‖  with V = W + (α/R) A·B, and a length m and a norm for every output, a column of V [in, out].

    m [out] starts at ‖W‖, so step 0 is the base. The gradient treats the norm as a constant, as the reference proposes
    (section 4.3) and PEFT does. Biases are not trained. With dropout the norm is that of V without dropout.

    Reference: Liu et al. 2024, arXiv 2402.09353, equation 5.
    """

    name: ClassVar[str] = "dora"

    def _init(self, base: Params, key: jax.Array) -> Params:
        theta, kernels = super()._init(base, key), flatten(base)
        lengths = {f"{m}/{MAGNITUDE}": column_norms(kernels[f"{m}/kernel"]) for m in modules_of(flatten(theta))}
        return overlay(theta, unflatten(lengths))

    def _merge(self, base: Params, theta: Params) -> Params:
        adapter, magnitudes = _split(theta)
        merged = super()._merge(base, adapter)
        return _lengthened(merged, _gains(merged, magnitudes))

    def _inject(self, base: Params, theta: Params, key: jax.Array) -> Params:
        adapter, magnitudes = _split(theta)
        gains = _gains(super()._merge(base, adapter), magnitudes)
        injected = super()._inject(base, adapter, key)
        beside = modules_of(flatten(injected))
        apart = {f"{module}/{GAIN}": gains[module] for module in beside}
        lengthened = _lengthened(injected, {module: gain for module, gain in gains.items() if module not in beside})
        return overlay(lengthened, unflatten(apart)) if apart else lengthened


def column_norms(kernel: jax.Array) -> jax.Array:
    """Return the length of every column: [in, out] -> [out]."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=0))


def _split(theta: Params) -> tuple[Params, dict[str, jax.Array]]:
    """Split the trainable tree into LoRA's part and {module: m}."""
    leaves = flatten(theta)
    magnitudes = {path: leaves.pop(path) for path in list(leaves) if path.endswith(f"/{MAGNITUDE}")}
    return unflatten(leaves), {path.removesuffix(f"/{MAGNITUDE}"): m for path, m in magnitudes.items()}


def _gains(merged: Params, magnitudes: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return {module: m / ‖V‖ [out]}, the factors of the columns of V; the kernels in `merged` are V."""
    kernels = flatten(merged)
    gains = {}
    for module, magnitude in magnitudes.items():
        norm = jax.lax.stop_gradient(column_norms(kernels[weight_of(module, kernels)]))
        gains[module] = magnitude / jnp.where(norm > 0, norm, 1.0)  # a column of zeros stays zero
    return gains


def _lengthened(params: Params, gains: dict[str, jax.Array]) -> Params:
    kernels = flatten(params)
    paths = {weight_of(module, kernels): gain for module, gain in gains.items()}
    return overlay(params, unflatten({path: kernels[path] * gain for path, gain in paths.items()}))
