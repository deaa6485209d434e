"""Parameter trees, and patterns that select their leaves.

A leaf is named by its slash path, such as `layers/3/attention/query/kernel`. Rules are ordered `(pattern, value)`
pairs: a pattern must match the whole path, the first matching rule wins, and a rule that matches nothing is an error.
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
    """Return the leaves of a nested dict by slash path, in sorted order; empty subtrees vanish."""
    leaves = {}
    for name in sorted(tree):
        path = f"{prefix}{name}"
        if isinstance(tree[name], Mapping):
            leaves.update(flatten(tree[name], f"{path}/"))
        else:
            leaves[path] = tree[name]
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """Return the nested dict of leaves named by slash path: the inverse of `flatten`."""
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def overlay(base: Mapping[str, Any], theta: Mapping[str, Any]) -> Params:
    """Return a copy of `base` in which the leaves of `theta` are replaced or added."""
    return unflatten({**flatten(base), **flatten(theta)})


def map_leaves(function: Callable[..., Any], tree: Mapping[str, Any], *rest: Mapping[str, Any]) -> Params:
    """Apply `function(path, leaf, *leaves of rest)` to every leaf of `tree`; `rest` must have at least its paths."""
    others = [flatten(other) for other in rest]
    return unflatten({p: function(p, leaf, *(o[p] for o in others)) for p, leaf in flatten(tree).items()})


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a regular expression. Raises: InputError that says where it is malformed."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"the pattern {pattern!r} is not a regular expression: {error}") from None


def select(tree: Mapping[str, Any], pattern: str) -> Params:
    """Return the subtree of the leaves whose whole path matches `pattern`.

    Raises: InputError with the nearest path if none matches, or if the pattern is malformed.
    """
    leaves = flatten(tree)
    compiled = compile_pattern(pattern)
    chosen = {path: leaf for path, leaf in leaves.items() if compiled.fullmatch(path)}
    if not chosen:
        raise InputError(_matches_nothing(pattern, leaves))
    return unflatten(chosen)


def match(rules: Rules, paths: Iterable[str]) -> dict[str, Any]:
    """Return {path: value of the first rule that matches it}.

    A rule may match only paths that earlier rules match too, as the rules of several methods are concatenated.
    Raises: InputError for a path without a rule, a rule that matches none of the paths, and a malformed pattern.
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
    """Return the depth of a parameter: 0 for embeddings, i + 1 for block i, `blocks` + 1 for all above the blocks."""
    first, _, rest = path.partition("/")
    if first == "embed":
        return 0
    if first == "layers":
        return int(rest.split("/", 1)[0]) + 1
    return blocks + 1


def without_heads(params: Params, names: Collection[str]) -> Params:
    """Return the parameters without the named heads, for example new ones that the base does not have."""
    if not names:
        return params
    return {**params, "heads": {name: head for name, head in params["heads"].items() if name not in names}}


def count(tree: Mapping[str, Any]) -> int:
    """Return the number of scalars in a tree of arrays or ShapeDtypeStructs."""
    return sum(math.prod(leaf.shape) for leaf in flatten(tree).values())


def sum_of(tree: Mapping[str, Any]) -> "jax.Array | int":
    """Return the sum of all numbers in a tree of arrays."""
    return sum(leaf.sum() for leaf in flatten(tree).values())


def _matches_nothing(pattern: str, paths: Iterable[str]) -> str:
    paths = list(paths)
    literal = re.sub(r"[^\w/]+", "", pattern)
    nearest = difflib.get_close_matches(literal, paths, n=1, cutoff=0.0)
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    return (
        f"the pattern {pattern!r} matches none of the {len(paths)} parameters{hint}. "
        "A pattern must match the whole path, as in 'layers/3/attention/.*'"
    )
