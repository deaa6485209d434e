"""Sums of squared per-example gradients at the cost of one ordinary gradient.

The backward pass of every operation that consumes a parameter is replaced (fft.models.probes.rules): it returns the
true cotangent for the input, so that the operations below work as usual, and Σ_b (gradient of example b)² as the
cotangent of the parameter's sink. One gradient of the summed losses with respect to the sinks thus gives Σ_b g_b² for
all leaves, in float32 whatever dtype the model computes in. The operations are replaced with
`flax.linen.intercept_methods`, so model files need no changes.

Two cases would silently give wrong numbers and raise an error instead. First, a parameter that two operations consume
(a shared layer): the rules that consume each leaf are counted. Second, a parameter that a model reads without a rule
(`self.param` in a module without one): as the rules read leaves of their own, the model's own tree must not influence
its outputs. Moreover, jit's cache does not notice interception, so nothing inside a model's functions may be jitted
separately: a program traced under interception would be reused for training, and the reverse.
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
from fft.models.language import Projection
from fft.models.layers import Dense, RMSNorm
from fft.models.probes.rules import lookup, product, rescale, shift, tied_product

Out = TypeVar("Out")
WORDS = "embed/word"
"""the path of the word embeddings, which language heads share"""


class Rules:
    """Interceptor for one trace of a model's forward pass over `size` examples.

    `leaves` are the parameters by path, `sinks` the sinks of the requested leaves; `used` counts the rules that
    consumed each leaf.
    """

    def __init__(self, leaves: dict[str, jax.Array], sinks: dict[str, jax.Array], size: int) -> None:
        self.leaves, self.sinks, self.size = leaves, sinks, size
        self.used: Counter[str] = Counter()
        self.looked_up: dict[str, tuple[jax.Array, jax.Array]] = {}

    def __call__(self, next_fun: Callable[..., Any], args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        """Run the rule for a module's method, or the method itself if there is no rule."""
        rule = RULES.get((type(context.module), context.method_name))
        if rule is None or not context.module.path:
            return next_fun(*args, **kwargs)
        return rule(self, context.module, *args, **kwargs)

    def take(self, module: nn.Module, name: str) -> tuple[jax.Array, jax.Array]:
        """Count the leaf `name` of a module as consumed, and return it with its sink."""
        path = "/".join((*module.path, name))
        self.used[path] += 1
        return self.leaves[path], self.sink(path)

    def take_optional(self, module: nn.Module, name: str) -> tuple[jax.Array, jax.Array] | None:
        """As `take`, but return None if the module has no such leaf."""
        return self.take(module, name) if "/".join((*module.path, name)) in self.leaves else None

    def sink(self, path: str) -> jax.Array:
        """Return the sink of a leaf, an unused array of zeros if the leaf was not requested."""
        return self.sinks[path] if path in self.sinks else jnp.zeros(self.leaves[path].shape)

    def check_rows(self, module: nn.Module, x: jax.Array) -> jax.Array:
        """Return `x` after checking that it has one row per example. Raises: InputError if not."""
        if x.shape[0] != self.size:
            raise InputError(
                f"the fused Fisher pass needs one row per example at {'/'.join(module.path)}; it has {x.shape[0]} rows "
                f"for {self.size} examples. Use the vmapped pass"
            )
        return x


def _dense(rules: Rules, module: nn.Module, x: jax.Array, *_: jax.Array | None) -> jax.Array:
    y = product(rules.check_rows(module, x), *rules.take(module, "kernel"))
    bias = rules.take_optional(module, "bias")
    return y if bias is None else shift(y, *bias)


def _norm(rules: Rules, module: nn.Module, x: jax.Array, *_: jax.Array | None) -> jax.Array:
    switches = {"use_scale": False} | ({"use_bias": False} if hasattr(module, "use_bias") else {})
    without_parameters = module.clone(parent=None, name=None, **switches)
    y = cast("jax.Array", without_parameters.apply({}, rules.check_rows(module, x)))
    scale, bias = rules.take_optional(module, "scale"), rules.take_optional(module, "bias")
    y = y if scale is None else rescale(y, *scale)
    return y if bias is None else shift(y, *bias)


def _rms_norm(rules: Rules, module: RMSNorm, x: jax.Array) -> jax.Array:
    scale, sink = rules.take(module, "scale")
    return rescale(module.unscaled(rules.check_rows(module, x)), module.offset + scale, sink).astype(x.dtype)


def _embed(rules: Rules, module: nn.Module, ids: jax.Array) -> jax.Array:
    table, sink = rules.take(module, "embedding")
    ids = jnp.broadcast_to(ids, (rules.size, *ids.shape[1:]))
    rows, carrier = lookup(ids, table, jnp.zeros((*ids.shape, table.shape[1])), sink)
    rules.looked_up["/".join(module.path)] = ids, carrier
    return rows


def _attend(rules: Rules, module: nn.Module, x: jax.Array) -> jax.Array:
    return _tied(rules, module, "/".join(module.path), x)


def _projection(rules: Rules, module: Projection, x: jax.Array, embeddings: jax.Array | None) -> jax.Array:
    if embeddings is None:
        y = product(rules.check_rows(module, x), *rules.take(module, "kernel"))
    else:
        y = _tied(rules, module, WORDS, x)
    bias = rules.take_optional(module, "bias")
    return module.scale * y if bias is None else shift(module.scale * y, *bias)


def _tied(rules: Rules, module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Return x Eᵀ for the embedding table of the module at the path `name`, which was looked up before."""
    if name not in rules.looked_up:
        raise InputError(
            f"the fused Fisher pass cannot use {name} as an output layer before it is looked up; use the vmapped pass"
        )
    ids, carrier = rules.looked_up.pop(name)  # so that a second use raises the error above
    table = f"{name}/embedding"
    return tied_product(rules.check_rows(module, x), rules.leaves[table], ids, carrier, rules.sink(table))


RULES: dict[tuple[type[nn.Module], str], Callable[..., jax.Array]] = {
    (Dense, "__call__"): _dense,
    (nn.Dense, "__call__"): _dense,
    (nn.LayerNorm, "__call__"): _norm,
    (nn.RMSNorm, "__call__"): _norm,
    (RMSNorm, "__call__"): _rms_norm,
    (nn.Embed, "__call__"): _embed,
    (nn.Embed, "attend"): _attend,
    (Projection, "__call__"): _projection,
}


def forward(run: Callable[[Params], Out], params: Params, sinks: Params, rows: int) -> Out:
    """Run the forward pass `run(params)` so that its gradient for `sinks` is Σ_b g_b², the sum of squared gradients.

    `rows` is the number of examples; `sinks` is a float32 tree shaped like the requested leaves of `params`.
    Raises: InputError naming the requested leaves that no rule consumes, or more than one.
    """
    return _under_rules(run, flatten(params), params, flatten(sinks), rows)


def refuse_raw_readers(run: Callable[[Params], jax.Array], params: Params, sinks: Params, rows: int) -> None:
    """Trace a forward pass over `rows` examples to check that requested leaves influence its logits only by rules.

    Raises: InputError as `forward`, and for requested leaves that the model reads without a rule.
    """
    leaves, requested = flatten(params), flatten(sinks)

    def logits(own: dict[str, jax.Array]) -> jax.Array:
        return _under_rules(run, leaves, unflatten(own), requested, rows)

    jaxpr = jax.make_jaxpr(logits)(leaves).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    if raw := [path for path, is_used in zip(sorted(leaves), used, strict=True) if is_used and path in requested]:
        raise InputError(
            f"the fused Fisher pass: the model reads {', '.join(raw)} without a rule; use the vmapped pass"
        )


def _under_rules(
    run: Callable[[Params], Out], leaves: dict[str, jax.Array], own: Params, sinks: dict[str, jax.Array], rows: int
) -> Out:
    """Return `run(own)` with rules that read `leaves`, and check that each leaf with a sink is consumed once."""
    rules = Rules(leaves, sinks, rows)
    with nn.intercept_methods(rules):
        outputs = run(own)
    wrong = {path: rules.used[path] for path in sinks if rules.used[path] != 1}
    if wrong:
        (path, times), *others = wrong.items()
        raise InputError(
            f"the fused Fisher pass cannot cover {path}: {times} rules consume it, expected 1"
            + (f" (and {len(others)} more leaves)" if others else "")
            + ". Use the vmapped pass, or leave it out"
        )
    return outputs
