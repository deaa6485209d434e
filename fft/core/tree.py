"""Parameter trees and the patterns that speak about them: every regex meets a tree here.

A leaf's name is its slash path, `layers/3/attention/query/kernel`. Rules are ordered `(pattern, value)` pairs; a
pattern must match the whole path, the first rule that matches wins, and a rule that matches nothing is an error.
"""

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fft.core.errors import InputError

if TYPE_CHECKING:
    import jax

Params = dict[str, Any]
Rules = tuple[tuple[str, Any], ...]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested dict by slash path, in sorted order; empty subtrees vanish."""
    leaves = {}
    for name in sorted(tree):
        path = f"{prefix}{name}"
        if isinstance(tree[name], Mapping):
            leaves.update(flatten(tree[name], f"{path}/"))
        else:
            leaves[path] = tree[name]
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """The nested dict of leaves named by slash path; the inverse of `flatten`."""
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def overlay(base: Mapping[str, Any], theta: Mapping[str, Any]) -> Params:
    """The tree `base` with the leaves of `theta` put in their places, replaced or added; neither is changed."""
    return unflatten({**flatten(base), **flatten(theta)})


def map_leaves(function: Callable[..., Any], tree: Mapping[str, Any], *rest: Mapping[str, Any]) -> Params:
    """`function(path, leaf, *leaves of rest)` on every leaf of `tree`; the other trees have at least its paths."""
    others = [flatten(other) for other in rest]
    return unflatten({p: function(p, leaf, *(o[p] for o in others)) for p, leaf in flatten(tree).items()})


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The compiled pattern, or an InputError that says where it is malformed."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"the pattern {pattern!r} is not a regular expression: {error}") from None


def select(tree: Mapping[str, Any], pattern: str) -> Params:
    """The subtree of the leaves whose whole path matches `pattern`; an error names the nearest path if none does."""
    leaves = flatten(tree)
    compiled = compile_pattern(pattern)
    chosen = {path: leaf for path, leaf in leaves.items() if compiled.fullmatch(path)}
    if not chosen:
        raise InputError(_matches_nothing(pattern, leaves))
    return unflatten(chosen)


def match(rules: Rules, paths: Iterable[str]) -> dict[str, Any]:
    """The value of the first rule that matches each path.

    Raises: InputError for a path no rule covers, and for a rule that matches none of the paths (a rule whose paths
    an earlier rule takes first is not dead: rules of several methods are concatenated).
    """
    paths = list(paths)
    compiled = [(compile_pattern(pattern), value) for pattern, value in rules]
    for pattern, _ in compiled:
        if not any(pattern.fullmatch(path) for path in paths):
            raise InputError(_matches_nothing(pattern.pattern, paths))
    matched = {}
    for path in paths:
        hits = [value for pattern, value in compiled if pattern.fullmatch(path)]
        if not hits:
            raise InputError(f"no rule covers the parameter {path}; end the rules with ('.*', value)")
        matched[path] = hits[0]
    return matched


def depth_of(path: str, blocks: int) -> int:
    """The depth of a parameter: embeddings 0, block i is i + 1, everything above the blocks is `blocks` + 1."""
    first, _, rest = path.partition("/")
    if first == "embed":
        return 0
    if first == "layers":
        return int(rest.split("/", 1)[0]) + 1
    return blocks + 1


def without_heads(params: Params, names: Collection[str]) -> Params:
    """The parameters without some heads: fresh ones have no value of the base's to go back to."""
    return {**params, "heads": {name: head for name, head in params["heads"].items() if name not in names}}


def count(tree: Mapping[str, Any]) -> int:
    """The number of scalars in a tree of arrays (or of ShapeDtypeStructs)."""
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())


def sum_of(tree: Mapping[str, Any]) -> "jax.Array | int":
    """The sum of all numbers in a tree of arrays."""
    return sum(leaf.sum() for leaf in flatten(tree).values())


def _matches_nothing(pattern: str, paths: Iterable[str]) -> str:
    paths = list(paths)
    plain = re.sub(r"[^\w/]+", "", pattern)
    nearest = difflib.get_close_matches(plain, paths, n=1, cutoff=0.0)
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    return (
        f"the pattern {pattern!r} matches none of the {len(paths)} parameters{hint}. "
        "A pattern must match the whole path, as in 'layers/3/attention/.*'"
    )
