"""The matrix products of a training step alone: the least time that the step takes on a machine."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch

Product = Callable[[Any, Any, Any], Any]


def forward(x: Any, _g: Any, kernel: Any) -> Any:
    """Return x W [N, out]."""
    return x @ kernel


def of_inputs(_x: Any, g: Any, kernel: Any) -> Any:
    """Return the gradient of the inputs, g Wᵀ [N, in]."""
    return g @ kernel.T


def of_kernel(x: Any, g: Any, _kernel: Any) -> Any:
    """Return the gradient of the kernel, xᵀ g [in, out]."""
    return x.T @ g


def products(
    library: str, shapes: Sequence[tuple[int, int]], tokens: int, layers: int, forms: Sequence[Product]
) -> Callable[[], None]:
    """Return a function that computes the products of layers with kernels of `shapes` one by one, by "jax" or "torch".

    Every kernel W [in, out] has `tokens` inputs x [N, in] and gradients g [N, out] of its own within a layer; XLA would
    compute equal products once.
    """
    rng = np.random.default_rng(0)
    make = jax.numpy.asarray if library == "jax" else torch.tensor

    def normal(*shape: int) -> Any:
        return make(rng.standard_normal(shape, np.float32))

    texts = [(normal(tokens, size), normal(tokens, width)) for size, width in shapes]
    kernels = [[normal(*shape) for shape in shapes] for _ in range(layers)]

    def of_layer(texts: list[tuple], layer: list) -> list:
        return [form(x, g, kernel) for (x, g), kernel in zip(texts, layer, strict=True) for form in forms]

    compute = jax.jit(of_layer) if library == "jax" else of_layer

    def compute_all() -> None:
        for layer in kernels:
            results = compute(texts, layer)
            if library == "jax":
                jax.block_until_ready(results)

    return compute_all
