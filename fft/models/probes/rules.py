"""The operations that consume a parameter, each with a backward pass that squares gradients example by example.

The forward pass is the ordinary operation. The backward pass returns the true cotangent for the input, none for the
parameter, and Σ_b (gradient of example b)² for its SINK, a float32 array of the parameter's shape whose value is never
read.

Letters: B examples, T tokens, I inputs, O outputs, V rows of an embedding table, D its width.
"""

import jax
import jax.numpy as jnp

from fft.models.layers import matmul


def _rows(x: jax.Array) -> jax.Array:
    """Reshape [B, ..., D] to float32 [B, T, D]; T is 1 for [B, D]."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)


def _sum_squares(x: jax.Array) -> jax.Array:
    """Return Σ_b (Σ_t x)²: [B, ..., D] -> [D]."""
    return jnp.sum(jnp.square(jnp.sum(_rows(x), axis=1)), axis=0)


def _product_squares(x: jax.Array, d: jax.Array) -> jax.Array:
    """Return Σ_b (X_bᵀ Δ_b)² of x [B, ..., I] and d [B, ..., O] -> [I, O], one example's product at a time."""
    x, d = _rows(x), _rows(d)
    if x.shape[1] == 1:
        return jnp.square(x[:, 0]).T @ jnp.square(d[:, 0])

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + jnp.square(pair[0].T @ pair[1]), None

    return jax.lax.scan(add, jnp.zeros((x.shape[-1], d.shape[-1])), (x, d))[0]


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array, sink: jax.Array) -> jax.Array:
    """Return x W: [B, ..., I] [I, O] -> [B, ..., O]."""
    return matmul(x, kernel)


def _product_forward(x: jax.Array, kernel: jax.Array, sink: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matmul(x, kernel), (x, kernel)


def _product_backward(saved: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    x, kernel = saved
    return (d @ kernel.T).astype(x.dtype), None, _product_squares(x, d)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def shift(x: jax.Array, bias: jax.Array, sink: jax.Array) -> jax.Array:
    """Return x + c: [B, ..., O] [O] -> [B, ..., O]."""
    return x + bias


def _shift_forward(x: jax.Array, bias: jax.Array, sink: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x + bias, jnp.zeros((), x.dtype)


def _shift_backward(like: jax.Array, d: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    return d.astype(like.dtype), None, _sum_squares(d)


shift.defvjp(_shift_forward, _shift_backward)


@jax.custom_vjp
def rescale(x: jax.Array, scale: jax.Array, sink: jax.Array) -> jax.Array:
    """Return x ⊙ s: [B, ..., D] [D] -> [B, ..., D]."""
    return x * scale


def _rescale_forward(x: jax.Array, scale: jax.Array, sink: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x * scale, (x, scale)


def _rescale_backward(saved: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    x, scale = saved
    return (d * scale).astype(x.dtype), None, _sum_squares(x.astype(jnp.float32) * d)


rescale.defvjp(_rescale_forward, _rescale_backward)


@jax.custom_vjp
def lookup(ids: jax.Array, table: jax.Array, carrier: jax.Array, sink: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rows `ids` [B, T] of a table [V, D] -> [B, T, D], and the float32 `carrier` [B, T, D] unchanged.

    Equal ids of one example share a row, so their cotangents are summed before they are squared. The carrier is zero.
    If the table is also an output layer, the carrier's cotangent is that layer's gradient of the rows looked up, and
    the cross term of (g_in + g_out)² = g_in² + 2 g_in g_out + g_out² is added here.
    """
    return table[ids], carrier


def _lookup_forward(
    ids: jax.Array, table: jax.Array, carrier: jax.Array, sink: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    return (table[ids], carrier), (ids, jnp.zeros((table.shape[0], 0)))


def _lookup_backward(
    saved: tuple[jax.Array, jax.Array], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[None, None, jax.Array, jax.Array]:
    ids, rows = saved
    d, out = (_rows(c) for c in cotangents)
    equal = ids[:, :, None] == ids[:, None, :]
    first = jnp.argmax(equal, axis=-1) == jnp.arange(ids.shape[1])
    summed = jnp.einsum("bst,btd->bsd", equal.astype(jnp.float32), d)
    squares = jnp.where(first[..., None], jnp.square(summed) + 2.0 * summed * out, 0.0)
    width = squares.shape[-1]
    total = jnp.zeros((rows.shape[0], width)).at[ids.reshape(-1)].add(squares.reshape(-1, width))
    return None, None, jnp.zeros_like(cotangents[1]), total


lookup.defvjp(_lookup_forward, _lookup_backward)


@jax.custom_vjp
def tied_product(x: jax.Array, table: jax.Array, ids: jax.Array, carrier: jax.Array, sink: jax.Array) -> jax.Array:
    """Return x Eᵀ: [B, T, D] [V, D] -> [B, T, V], for a table that `lookup` read with ids [B, T] and this carrier."""
    return x @ table.T


def _tied_forward(
    x: jax.Array, table: jax.Array, ids: jax.Array, carrier: jax.Array, sink: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return x @ table.T, (x, table, ids)


def _tied_backward(
    saved: tuple[jax.Array, jax.Array, jax.Array], d: jax.Array
) -> tuple[jax.Array, None, None, jax.Array, jax.Array]:
    x, table, ids = saved

    def add(total: jax.Array, example: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        d, x, ids = example
        gradient = d.T @ x
        return total + jnp.square(gradient), gradient[ids]

    total, rows = jax.lax.scan(add, jnp.zeros(table.shape), (_rows(d), _rows(x), ids))
    return (d @ table).astype(x.dtype), None, None, rows, total


tied_product.defvjp(_tied_forward, _tied_backward)
