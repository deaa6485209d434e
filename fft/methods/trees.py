"""Trainable trees: the base's own parameters, some of them, or an adapter's with copies of the heads."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fft.core.errors import InputError
from fft.core.tree import Params, Rules, compile_pattern, flatten, overlay


class Tree(NamedTuple):
    """The trainable tree theta, and how the model's parameters are made from it.

    theta uses the base's own paths, so that the same patterns match both.
    """

    init: Callable[[Params, jax.Array], Params]
    """init(base, key) -> theta at step 0; a copy, because training donates it"""
    merge: Callable[[Params, Params], Params]
    """merge(base, theta) -> the base model's parameters with theta merged in; inside jit and grad"""
    inject: Callable[[Params, Params, jax.Array], Params] | None = None
    """inject(base, theta, key) -> the parameters that the model uses in a training step, by default those of `merge`;
    `key` is for the method's own dropout"""
    plain: bool = True
    """whether the result starts at the base and can be saved as an ordinary checkpoint; if not, only as an adapter"""


BASE_TREE = Tree(lambda base, key: jax.tree.map(jnp.copy, base), overlay)
"""The base's own parameters; theta may have only some of them, like one that was read from a file."""


def copied_heads(base: Params) -> dict[str, jax.Array]:
    """Copy the parameters of every head, by path: an adapter trains them besides its own."""
    return {path: jnp.copy(leaf) for path, leaf in flatten(base).items() if path.startswith("heads/")}


def trained_alone(name: str, pattern: str, paths: Iterable[str]) -> Rules:
    """Return the rules of a method that trains only what `pattern` matches, and the heads.

    Raises: InputError if the pattern matches nothing outside the heads.
    """
    compiled, paths = compile_pattern(pattern), list(paths)
    if not any(compiled.fullmatch(path) for path in paths if not path.startswith("heads/")):
        raise InputError(
            f"{name} chooses among the base's own parameters, and none of them is trained here: the base has no such "
            "parameters, as most decoders have no biases, or another method, such as lora, replaces the trainable "
            f"tree. Leave {name} or that method out"
        )
    heads = (("heads/.*", 1.0),) if any(path.startswith("heads/") for path in paths) else ()
    return ((pattern, 1.0), *heads, (".*", 0.0))
