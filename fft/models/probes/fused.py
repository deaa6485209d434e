"""Sums of squared per-example gradients at the price of one ordinary gradient.

The backward pass of every operation that consumes a parameter is swapped (fft.models.probes.rules): for its input it
returns the true cotangent, so every operation below still sees the right signal, and Σ_b (gradient of example b)² as
the cotangent of the parameter's sink. One gradient of the summed losses with respect to the sinks then gives Σ_b g_b²
of all leaves, in float32 whatever the model computes in. Model files stay plain: the operations are met through
`flax.linen.intercept_methods`.

Two things would give wrong numbers in silence, and are refused by name instead. A parameter that two operations
consume (a shared layer): the rules that consume each leaf are counted. A parameter that a model reads without a rule
(`self.param` in a module not listed here): the rules read leaves of their own, so that the model's tree must not
reach its outputs. And interception is invisible to jit's cache: nothing under a model's functions may be jitted by
itself, because a program traced there would be kept for training, or taken from it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import InterceptorContext
from jax.interpreters import partial_eval

from fft.core.errors import InputError
from fft.core.tree import Params, flatten, unflatten
from fft.models.layers import Dense
from fft.models.probes.rules import lookup, product, rescale, shift, tied_product

Made = TypeVar("Made")


class Rules:
    """An interceptor for one trace of a model's forward pass over `size` examples.

    `leaves` are the parameters by path, `sinks` those of the leaves asked for; `used` counts the rules that consumed
    each leaf.
    """

    def __init__(self, leaves: dict[str, jax.Array], sinks: dict[str, jax.Array], size: int) -> None:
        self.leaves, self.sinks, self.size = leaves, sinks, size
        self.used: Counter[str] = Counter()
        self.looked_up: dict[str, tuple[jax.Array, jax.Array]] = {}

    def __call__(self, next_fun: Callable[..., Any], args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        """Run the rule of a module's method, or the method itself where there is none."""
        rule = RULES.get((type(context.module), context.method_name))
        if rule is None or not context.module.path:
            return next_fun(*args, **kwargs)
        return rule(self, context.module, *args, **kwargs)

    def take(self, module: nn.Module, name: str) -> tuple[jax.Array, jax.Array]:
        """The leaf `name` of a module, counted as consumed, and its sink."""
        path = "/".join((*module.path, name))
        self.used[path] += 1
        return self.leaves[path], self.sink(path)

    def take_if_there(self, module: nn.Module, name: str) -> tuple[jax.Array, jax.Array] | None:
        """As `take`; None where the module has no such leaf."""
        return self.take(module, name) if "/".join((*module.path, name)) in self.leaves else None

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


def _dense(rules: Rules, module: nn.Module, x: jax.Array, *_: jax.Array | None) -> jax.Array:
    y = product(rules.whole(module, x), *rules.take(module, "kernel"))
    bias = rules.take_if_there(module, "bias")
    return y if bias is None else shift(y, *bias)


def _norm(rules: Rules, module: nn.Module, x: jax.Array, *_: jax.Array | None) -> jax.Array:
    bare = {"use_scale": False} | ({"use_bias": False} if hasattr(module, "use_bias") else {})
    plain = module.clone(parent=None, name=None, **bare)
    y = cast("jax.Array", plain.apply({}, rules.whole(module, x)))
    scale, bias = rules.take_if_there(module, "scale"), rules.take_if_there(module, "bias")
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


RULES: dict[tuple[type[nn.Module], str], Callable[..., jax.Array]] = {
    (Dense, "__call__"): _dense,
    (nn.Dense, "__call__"): _dense,
    (nn.LayerNorm, "__call__"): _norm,
    (nn.RMSNorm, "__call__"): _norm,
    (nn.Embed, "__call__"): _embed,
    (nn.Embed, "attend"): _attend,
}


def forward(run: Callable[[Params], Made], params: Params, sinks: Params, rows: int) -> Made:
    """`run(params)`, a forward pass over so many rows, whose gradient for `sinks`, float32 shaped like some of its
    leaves, is their Σ_b g_b².

    Raises: InputError naming the leaves asked for that no rule consumes, or more than one.
    """
    return _under_rules(run, flatten(params), params, flatten(sinks), rows)


def refuse_raw_readers(run: Callable[[Params], jax.Array], params: Params, sinks: Params, rows: int) -> None:
    """Trace a forward pass over so many rows and see which leaves of the model's own tree its logits depend on.

    Raises: as `forward`, and InputError naming the leaves asked for that the model reads beside the rules.
    """
    leaves, asked = flatten(params), flatten(sinks)

    def logits(own: dict[str, jax.Array]) -> jax.Array:
        return _under_rules(run, leaves, unflatten(own), asked, rows)

    jaxpr = jax.make_jaxpr(logits)(leaves).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    if raw := [path for path, is_used in zip(sorted(leaves), used, strict=True) if is_used and path in asked]:
        raise InputError(
            f"the fused Fisher pass: the model reads {', '.join(raw)} without a rule; use the vmapped pass"
        )


def _under_rules(
    run: Callable[[Params], Made], leaves: dict[str, jax.Array], own: Params, asked: dict[str, jax.Array], rows: int
) -> Made:
    """`run(own)` where the rules read `leaves` and give to the sinks `asked`; each must be consumed once."""
    rules = Rules(leaves, asked, rows)
    with nn.intercept_methods(rules):
        outputs = run(own)
    wrong = {path: rules.used[path] for path in asked if rules.used[path] != 1}
    if wrong:
        (path, times), *others = wrong.items()
        raise InputError(
            f"the fused Fisher pass cannot cover {path}: {times} rules consume it, expected 1"
            + (f" (and {len(others)} more leaves)" if others else "")
            + ". Use the vmapped pass, or leave it out"
        )
    return outputs
