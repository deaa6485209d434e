"""What is trained: the base's own parameters, some of them alone, or an adapter's beside copies of the heads."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fft.core.errors import InputError
from fft.core.tree import Params, Rules, compile_pattern, flatten, overlay


class Tree(NamedTuple):
    """What is trained, and how the model's parameters are made from it.

    theta is the trainable tree. It has the base's own paths, so that one set of patterns speaks about both.
    """

    init: Callable[[Params, jax.Array], Params]
    """init(base, key) -> theta at step 0; a copy, because training donates it"""
    merge: Callable[[Params, Params], Params]
    """merge(base, theta) -> the plain parameters that theta stands for; inside jit and grad"""
    inject: Callable[[Params, Params, jax.Array], Params] | None = None
    """inject(base, theta, key) -> what the model sees in a training step, where that is not `merge`; `key` draws the
    method's own dropout"""
    plain: bool = True
    """whether the result is values of the base's own parameters, from which it starts; else only an adapter holds it"""


BASE_TREE = Tree(lambda base, key: jax.tree.map(jnp.copy, base), overlay)
"""The base's own parameters; theta may hold some of them alone, as one that was read from a file."""


def copied_heads(base: Params) -> dict[str, jax.Array]:
    """Copies of the parameters of every head, by path: what an adapter trains whole beside its own."""
    return {path: jnp.copy(leaf) for path, leaf in flatten(base).items() if path.startswith("heads/")}


def trained_alone(name: str, pattern: str, paths: Iterable[str]) -> Rules:
    """The rules of a method that trains what `pattern` matches, and the heads, and nothing else.

    Raises: InputError where the pattern matches nothing below the heads.
    """
    compiled = compile_pattern(pattern)
    if not any(compiled.fullmatch(path) for path in paths if not path.startswith("heads/")):
        raise InputError(
            f"{name} chooses among the base's own parameters, and here are none that it would train: in a chain with a "
            "method that replaces the trainable tree, such as lora, it has nothing to say"
        )
    return ((pattern, 1.0), ("heads/.*", 1.0), (".*", 0.0))
