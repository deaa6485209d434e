"""The modules that an adapter's config selects, by PEFT's rules."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fft.adapters.config import Linear, Targeted
from fft.adapters.layout import Layout, Part, Table
from fft.core.errors import InputError
from fft.core.naming import UNEMBED
from fft.core.settings import listed
from fft.core.tree import compile_pattern

Place = TypeVar("Place")
ALL_LINEAR = "all-linear"


def targeted(
    config: Targeted, modules: Mapping[str, Place], kind: str, among: Callable[[str], bool] = lambda name: True
) -> dict[str, Place]:
    """Return those of some modules that a config's target_modules select.

    A string is a regular expression over full names. A list holds full names, or endings after a dot, which select only
    names for which `among` is true. exclude_modules is read the same way, and modules_to_save are never targets. `kind`
    names the modules in the error message.

    Raises: InputError if nothing is selected.
    """
    chosen = {
        name: place
        for name, place in modules.items()
        if _selects(config.target_modules, name, among)
        and not _selects(config.exclude_modules or [], name)
        and not any(f".{saved}." in f".{name}." for saved in config.modules_to_save or [])
    }
    if not chosen:
        raise InputError(
            f"target_modules {config.target_modules!r} name no {kind} of this base: give the base that the adapter was "
            "trained on"
        )
    return chosen


def linear_targets(config: Linear, layout: Layout) -> dict[str, tuple[Part, ...]]:
    """Return the dense modules that a config targets, {transformers' module: Parts}. Raises: as `targeted`."""
    return targeted(_without_shorthand(config, layout), layout.linear(), "linear layer", _among(config))


def matrix_targets(config: Linear, layout: Layout) -> dict[str, tuple[Part, ...] | Table]:
    """Return the dense modules and embeddings that a config targets. Raises: as `targeted`."""
    modules: dict[str, tuple[Part, ...] | Table] = {**layout.linear(), **layout.tables()}
    return targeted(_without_shorthand(config, layout), modules, "linear layer or embedding", _among(config))


def pattern_of(patterns: Mapping[str, float] | None, name: str) -> float | None:
    """Return the value of the first pattern, of rank_pattern or alpha_pattern, that matches the end of a module's name.

    A match begins at the name's begin or after a dot. None where none matches.
    """
    for pattern, value in (patterns or {}).items():
        if compile_pattern(rf"(.*\.)?({pattern})").fullmatch(name):
            return value
    return None


def _without_shorthand(config: Linear, layout: Layout) -> Targeted:
    """Return the config with the names that `all-linear` stands for: all but those of the language head."""
    given = config.target_modules
    if not (isinstance(given, str) and given.lower() == ALL_LINEAR):
        return config
    names = [name for name, parts in layout.linear().items() if not parts[0].module.startswith(UNEMBED)]
    return Targeted(
        peft_type=config.peft_type,
        target_modules=names,
        exclude_modules=config.exclude_modules,
        modules_to_save=config.modules_to_save,
    )


def _among(config: Linear) -> Callable[[str], bool]:
    """Return the predicate of layers_to_transform: whether a module's name is in a block of one of these numbers.

    The number comes after layers_pattern, by default after any component.
    """
    blocks = listed(config.layers_to_transform)
    patterns = [compile_pattern(rf"(?:.*?\.)?{text}\.(\d+)\.") for text in _patterns(config)]

    def among(name: str) -> bool:
        match = next(filter(None, (pattern.match(name) for pattern in patterns)), None)
        return not blocks or (match is not None and int(match[1]) in blocks)

    return among


def _patterns(config: Linear) -> Iterable[str]:
    return listed(config.layers_pattern or r"[^.]*")


def _selects(names: str | list[str], name: str, among: Callable[[str], bool] = lambda name: True) -> bool:
    if isinstance(names, str):
        return bool(compile_pattern(names).fullmatch(name))
    return name in names or (any(name.endswith(f".{ending}") for ending in names) and among(name))
