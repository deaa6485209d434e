"""Sums of squared per-example gradients at the price of one ordinary gradient.

The backward pass of every operation that consumes a parameter is swapped: for its input it returns the true
cotangent, so every operation below still sees the right signal, and beside the parameter's own, Σ_b (gradient of
example b)² as the cotangent of its SINK: a float32 array of the parameter's shape whose value is never read. One
gradient of the summed losses with respect to the sinks then gives Σ_b g_b² of all leaves, in float32 whatever the
model computes in. Model files stay plain: the operations are met through `flax.linen.intercept_methods`.

Letters: B examples, T tokens, I inputs, O outputs, V rows of an embedding table, D its width.

Two things would give wrong numbers in silence, and are refused by name instead. A parameter that two operations
consume (a shared layer): the rules that consume each leaf are counted. A parameter that a model reads without a rule
(`self.param` in a module not listed here): the rules get the true leaves, the model's own tree others, so that
whatever it reads raw changes the outputs, which are compared once. And interception is invisible to jit's cache:
nothing under `Model.apply` may be jitted by itself, because a program traced there would be kept for training, or
taken from it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fft.errors import InputError
from fft.models.layers import Dense, matmul
from fft.paths import flatten, unflatten


def _rows(x: jax.Array) -> jax.Array:
    """[B, ..., D] as float32 [B, T, D]; T is 1 for [B, D]."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)


def _sum_squares(x: jax.Array) -> jax.Array:
    """Σ_b (Σ_t x)²: [B, ..., D] -> [D]."""
    return jnp.sum(jnp.square(jnp.sum(_rows(x), axis=1)), axis=0)


def _product_squares(x: jax.Array, d: jax.Array) -> jax.Array:
    """Σ_b (X_bᵀ Δ_b)² of x [B, ..., I] and d [B, ..., O] -> [I, O], one example's product at a time."""
    x, d = _rows(x), _rows(d)
    if x.shape[1] == 1:
        return jnp.square(x[:, 0]).T @ jnp.square(d[:, 0])

    def add(total, pair):
        return total + jnp.square(pair[0].T @ pair[1]), None

    return jax.lax.scan(add, jnp.zeros((x.shape[-1], d.shape[-1])), (x, d))[0]


# --- the rules: forward as usual; the parameters get no cotangent, their sinks Σ_b g_b² ---


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array, sink: jax.Array) -> jax.Array:
    """x W: [B, ..., I] [I, O] -> [B, ..., O]."""
    return matmul(x, kernel)


def _product_forward(x, kernel, sink):
    return matmul(x, kernel), (x, kernel)


def _product_backward(saved, d):
    x, kernel = saved
    return (d @ kernel.T).astype(x.dtype), None, _product_squares(x, d)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def shift(x: jax.Array, bias: jax.Array, sink: jax.Array) -> jax.Array:
    """x + c: [B, ..., O] [O] -> [B, ..., O]."""
    return x + bias


def _shift_forward(x, bias, sink):
    return x + bias, jnp.zeros((), x.dtype)


def _shift_backward(like, d):
    return d.astype(like.dtype), None, _sum_squares(d)


shift.defvjp(_shift_forward, _shift_backward)


@jax.custom_vjp
def rescale(x: jax.Array, scale: jax.Array, sink: jax.Array) -> jax.Array:
    """x ⊙ s: [B, ..., D] [D] -> [B, ..., D]."""
    return x * scale


def _rescale_forward(x, scale, sink):
    return x * scale, (x, scale)


def _rescale_backward(saved, d):
    x, scale = saved
    return (d * scale).astype(x.dtype), None, _sum_squares(x.astype(jnp.float32) * d)


rescale.defvjp(_rescale_forward, _rescale_backward)


@jax.custom_vjp
def lookup(ids: jax.Array, table: jax.Array, carrier: jax.Array, sink: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows `ids` [B, T] of a table [V, D] -> [B, T, D], and `carrier` [B, T, D], float32, handed on.

    Equal ids of one example share a row, so their cotangents are summed before they are squared. The carrier is zero;
    where the table is also an output layer, what comes back along it is that layer's gradient of the rows looked up,
    and the cross term of (g_in + g_out)² = g_in² + 2 g_in g_out + g_out² is added here.
    """
    return table[ids], carrier


def _lookup_forward(ids, table, carrier, sink):
    return (table[ids], carrier), (ids, jnp.zeros((table.shape[0], 0)))


def _lookup_backward(saved, cotangents):
    ids, rows = saved
    d, out = (_rows(c) for c in cotangents)
    equal = ids[:, :, None] == ids[:, None, :]
    first = jnp.argmax(equal, axis=-1) == jnp.arange(ids.shape[1])
    whole = jnp.einsum("bst,btd->bsd", equal.astype(jnp.float32), d)
    squares = jnp.where(first[..., None], jnp.square(whole) + 2.0 * whole * out, 0.0)
    width = squares.shape[-1]
    total = jnp.zeros((rows.shape[0], width)).at[ids.reshape(-1)].add(squares.reshape(-1, width))
    return None, None, jnp.zeros_like(cotangents[1]), total


lookup.defvjp(_lookup_forward, _lookup_backward)


@jax.custom_vjp
def tied_product(x: jax.Array, table: jax.Array, ids: jax.Array, carrier: jax.Array, sink: jax.Array) -> jax.Array:
    """x Eᵀ: [B, T, D] [V, D] -> [B, T, V], for a table that `lookup` read with ids [B, T] and this carrier."""
    return x @ table.T


def _tied_forward(x, table, ids, carrier, sink):
    return x @ table.T, (x, table, ids)


def _tied_backward(saved, d):
    x, table, ids = saved

    def add(total, example):
        d, x, ids = example
        gradient = d.T @ x
        return total + jnp.square(gradient), gradient[ids]

    total, rows = jax.lax.scan(add, jnp.zeros(table.shape), (_rows(d), _rows(x), ids))
    return (d @ table).astype(x.dtype), None, None, rows, total


tied_product.defvjp(_tied_forward, _tied_backward)


# --- from modules to rules ---


class Rules:
    """An interceptor for one trace of a model's forward pass over `size` examples.

    `leaves` are the parameters by path, `sinks` those of the leaves asked for; `used` counts the rules that consumed
    each leaf.
    """

    def __init__(self, leaves: dict[str, jax.Array], sinks: dict[str, jax.Array], size: int):
        self.leaves, self.sinks, self.size = leaves, sinks, size
        self.used: Counter[str] = Counter()
        self.looked_up: dict[str, tuple[jax.Array, jax.Array]] = {}

    def __call__(self, next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        """Run the rule of a module's method, or the method itself where there is none."""
        rule = RULES.get((type(context.module), context.method_name))
        if rule is None or not context.module.path:
            return next_fun(*args, **kwargs)
        return rule(self, context.module, *args, **kwargs)

    def take(self, module: nn.Module, name: str) -> tuple[jax.Array, jax.Array] | None:
        """The leaf `name` of a module, counted as consumed, and its sink; None where the module has none."""
        path = "/".join((*module.path, name))
        if path not in self.leaves:
            return None
        self.used[path] += 1
        return self.leaves[path], self.sink(path)

    def sink(self, path: str) -> jax.Array:
        """The sink of a leaf; one that nobody looks at, where the leaf was not asked for."""
        return self.sinks[path] if path in self.sinks else jnp.zeros(self.leaves[path].shape)

    def whole(self, module: nn.Module, x: jax.Array) -> jax.Array:
        """`x`, which must have one row an example."""
        if x.shape[0] != self.size:
            raise InputError(
                f"the fused Fisher pass needs one row an example at {'/'.join(module.path)}; it has {x.shape[0]} rows "
                f"for {self.size} examples. Use the vmapped pass"
            )
        return x


def _dense(rules: Rules, module: nn.Module, x: jax.Array, *_: Any) -> jax.Array:
    y = product(rules.whole(module, x), *rules.take(module, "kernel"))
    bias = rules.take(module, "bias")
    return y if bias is None else shift(y, *bias)


def _norm(rules: Rules, module: nn.Module, x: jax.Array, *_: Any) -> jax.Array:
    bare = {"use_scale": False} | ({"use_bias": False} if hasattr(module, "use_bias") else {})
    y = module.clone(parent=None, name=None, **bare).apply({}, rules.whole(module, x))
    scale, bias = rules.take(module, "scale"), rules.take(module, "bias")
    y = y if scale is None else rescale(y, *scale)
    return y if bias is None else shift(y, *bias)


def _embed(rules: Rules, module: nn.Module, ids: jax.Array) -> jax.Array:
    table, sink = rules.take(module, "embedding")
    ids = jnp.broadcast_to(ids, (rules.size, *ids.shape[1:]))
    rows, carrier = lookup(ids, table, jnp.zeros((*ids.shape, table.shape[1])), sink)
    rules.looked_up["/".join(module.path)] = ids, carrier
    return rows


def _attend(rules: Rules, module: nn.Module, x: jax.Array) -> jax.Array:
    name = "/".join(module.path)
    if name not in rules.looked_up:
        raise InputError(f"the fused Fisher pass meets {name} as an output layer before it is looked up")
    ids, carrier = rules.looked_up.pop(name)  # a second use finds nothing and is refused
    table = f"{name}/embedding"
    return tied_product(rules.whole(module, x), rules.leaves[table], ids, carrier, rules.sink(table))


RULES = {
    (Dense, "__call__"): _dense,
    (nn.Dense, "__call__"): _dense,
    (nn.LayerNorm, "__call__"): _norm,
    (nn.RMSNorm, "__call__"): _norm,
    (nn.Embed, "__call__"): _embed,
    (nn.Embed, "attend"): _attend,
}


def forward(apply: Callable, params: dict, sinks: dict, batch: dict) -> dict:
    """`apply(params, batch)` whose gradient for `sinks`, float32 shaped like some of its leaves, is their Σ_b g_b².

    Errors: InputError naming the leaves asked for that no rule consumes, or more than one.
    """
    leaves, asked = flatten(params), flatten(sinks)
    rules = Rules(leaves, asked, len(batch["weight"]))
    with nn.intercept_methods(rules):
        outputs = apply(unflatten({path: _other(leaf) for path, leaf in leaves.items()}), batch)
    wrong = {path: rules.used[path] for path in asked if rules.used[path] != 1}
    if wrong:
        (path, times), *others = wrong.items()
        raise InputError(
            f"the fused Fisher pass cannot cover {path}: {times} rules consume it, expected 1"
            + (f" (and {len(others)} more leaves)" if others else "")
            + ". Use the vmapped pass, or leave it out"
        )
    return outputs


def _other(leaf: jax.Array) -> jax.Array:
    """Other values of the same size; not NaN, which XLA's exponential on CPU does not always pass on."""
    return 2.0 * leaf + 1.0


def refuse_raw_readers(apply: Callable, params: dict, sinks: dict, batch: dict) -> None:
    """Compare the outputs under the rules with the model's own on a batch.

    Errors: as `forward`, and InputError naming the leaves that the model reads beside the rules.
    """
    own = jax.jit(lambda params: apply(params, batch)["logits"])(params)
    own = {name: np.asarray(logits, np.float32) for name, logits in own.items()}
    if not all(np.isfinite(logits).all() for logits in own.values()):
        return  # nothing to compare; the pass will name the row
    tolerance = 1e-3 if all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params)) else 0.1

    def differ(logits):
        return any(
            not np.allclose(np.asarray(logits[name], np.float32), own[name], rtol=tolerance, atol=tolerance)
            for name in own
        )

    if not differ(jax.jit(lambda params, sinks: forward(apply, params, sinks, batch)["logits"])(params, sinks)):
        return
    leaves = flatten(params)

    def is_raw(path):
        with nn.intercept_methods(Rules(leaves, {}, len(batch["weight"]))):
            return differ(apply(unflatten({**leaves, path: _other(leaves[path])}), batch)["logits"])

    raw = ", ".join(filter(is_raw, leaves)) or "something"
    raise InputError(f"the fused Fisher pass: the model reads {raw} without a rule; use the vmapped pass")
