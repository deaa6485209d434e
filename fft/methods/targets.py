"""The choice of the linear layers that an adapter changes: by role, all of them, or by a pattern over module paths."""

import math
import re
from collections.abc import Iterable, Sequence

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


def in_blocks(layers: str, modules: Sequence[str], flag: str) -> list[str]:
    """Return the modules in the blocks with these numbers, such as "0-3,7"; all for "".

    Raises: InputError for something else, and if a block has none of the modules.
    """
    if not layers:
        return list(modules)
    numbers: set[int] = set()
    for part in layers.split(","):
        if not (found := re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)):
            raise InputError(f"--{flag} {layers!r}: expected numbers of blocks, such as 0-3,7, got {part.strip()!r}")
        numbers |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    blocks = {module: int(module.split("/")[1]) for module in modules}
    known = sorted(set(blocks.values()))
    if missing := sorted(numbers - set(known)):
        raise InputError(
            f"--{flag} {layers!r}: block {missing[0]} has no layer with an update: give numbers from {known[0]} to "
            f"{known[-1]}"
        )
    return [module for module in modules if blocks[module] in numbers]


def own_value(settings: Sequence[str], module: str, flag: str, default: float) -> float:
    """Return the value of the first TARGETS=VALUE among the settings that fits a module, else the default.

    TARGETS is as in `targeted`. Raises: InputError for a setting of another form.
    """
    for setting in settings:
        targets, value = _parsed(setting, flag)
        if compile_pattern(_pattern(targets, flag)).fullmatch(module):
            return value
    return default


def refuse_unmatched(settings: Sequence[str], modules: Sequence[str], flag: str) -> None:
    """Refuse a TARGETS=VALUE of another form, or that fits none of the modules. Raises: InputError."""
    for setting in settings:
        targets, _ = _parsed(setting, flag)
        pattern = compile_pattern(_pattern(targets, flag))
        if not any(pattern.fullmatch(module) for module in modules):
            raise InputError(f"--{flag} {setting}: no layer with an update fits {targets!r}, such as {modules[0]}")


def _parsed(setting: str, flag: str) -> tuple[str, float]:
    targets, equals, text = setting.rpartition("=")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (equals and targets and 0 < value < math.inf):
        raise InputError(f"--{flag} {setting!r}: expected TARGETS=NUMBER with a number above 0, such as mlp=4")
    return targets, value


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
