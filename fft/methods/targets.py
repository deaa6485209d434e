"""The choice of the linear layers that an adapter changes: by role, all of them, or by a pattern over module paths."""

import re
from collections.abc import Iterable

from fft.core.errors import InputError
from fft.core.tree import compile_pattern

PARTS = {"attention": ("query", "key", "value", "out"), "mlp": ("gate", "up", "down")}
"""the parts of a block, and the roles of their linear layers"""
ROLES = {role: part for part, roles in PARTS.items() for role in roles}


def targeted(targets: str, paths: Iterable[str], flag: str) -> list[str]:
    """Return the paths of the modules (a kernel's path without `/kernel`) in the blocks that `targets` names.

    `targets` is roles (query, key, value, out, gate, up, down) and parts of a block (attention, mlp), comma-separated,
    or all-linear, or a pattern over module paths; `flag` is the name of its setting.

    Raises: InputError for an unknown role, and if nothing matches.
    """
    linear = [p.removesuffix("/kernel") for p in paths if p.endswith("/kernel") and p.startswith("layers/")]
    pattern = compile_pattern(_pattern(targets, flag))
    chosen = [path for path in linear if pattern.fullmatch(path)]
    if not chosen:
        raise InputError(f"--{flag} {targets!r} matches none of the {len(linear)} linear layers, such as {linear[0]}")
    return chosen


def _pattern(targets: str, flag: str) -> str:
    if targets == "all-linear":
        return r"layers/\d+/.*"
    names = [name.strip() for name in targets.split(",")]
    if all(name in ROLES or name in PARTS for name in names):
        roles = dict.fromkeys(role for name in names for role in PARTS.get(name, (name,)))
        return r"layers/\d+/(" + "|".join(f"{ROLES[role]}/{role}" for role in roles) + ")"
    if re.fullmatch(r"[\w, -]*", targets):
        unknown = ", ".join(name or "(empty)" for name in names if name not in ROLES and name not in PARTS)
        known = ", ".join([*ROLES, *PARTS])
        raise InputError(f"--{flag}: unknown role {unknown}; known are {known} and all-linear")
    return targets
