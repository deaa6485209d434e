"""The inputs of the dense layers of a forward pass, captured with `flax.linen.intercept_methods`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import InterceptorContext

from fft.core.batch import Batch, row_weight
from fft.core.errors import InputError
from fft.models.layers import Dense


def dense_inputs(run: Callable[[], object]) -> dict[str, jax.Array]:
    """Return the input of every dense layer in the forward pass `run()` by the layer's path, [B, in] or [B, t, in].

    Raises: InputError for a layer that is used twice, as its inputs are not one array.
    """
    inputs: dict[str, jax.Array] = {}

    def capture(next_fun: Callable[..., Any], args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        if isinstance(context.module, Dense | nn.Dense) and context.method_name == "__call__" and context.module.path:
            path = "/".join(context.module.path)
            if path in inputs:
                raise InputError(f"the dense layer {path} is used twice in a forward pass")
            inputs[path] = args[0]
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(capture):
        run()
    return inputs


def second_moments(inputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    """Return Σ (x, 1)(x, 1)ᵀ for every layer, [in + 1, in + 1]; the 1 is for the bias.

    The sum is over all rows with a positive weight and all tokens that are not padding.
    """

    def of_layer(x: jax.Array) -> jax.Array:
        x = x if x.ndim == 3 else x[:, None]
        real = jnp.broadcast_to(row_weight(batch.weight)[:, None] > 0, x.shape[:2])
        if x.shape[1] > 1:  # else it is the first token only, which is never padding
            real &= batch.mask > 0
        rows = jnp.where(real[..., None], jnp.concatenate([x, jnp.ones((*x.shape[:2], 1))], axis=-1), 0.0)
        return jnp.einsum("bti,btj->ij", rows, rows, precision="highest")

    return {path: of_layer(x) for path, x in inputs.items()}
