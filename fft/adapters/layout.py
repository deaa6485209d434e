"""The correspondence of PEFT's tensor names and shapes to ours, shared by reading and writing."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from fft.adapters.config import Known, Linear, Targeted
from fft.core.errors import InputError
from fft.core.settings import listed
from fft.core.tree import compile_pattern
from fft.methods import Method
from fft.models.files.keys import body_keys, expected_shapes, head_keys
from fft.models.layers import Config
from fft.models.model import Family

Place = TypeVar("Place")
TRANSPOSED = ("/kernel", "/lora_a", "/lora_b")


class Tensor(NamedTuple):
    """One tensor of an adapter: PEFT's key and shape, our path and shape.

    Weight matrices are transposed between the two; other tensors that differ in shape are vectors with an axis of 1.
    """

    key: str
    shape: tuple[int, ...]
    path: str
    own: tuple[int, ...]

    def theirs(self, leaf: np.ndarray) -> np.ndarray:
        """Return our leaf in PEFT's layout."""
        return (leaf.T if self.path.endswith(TRANSPOSED) else leaf).reshape(self.shape)

    def ours(self, value: np.ndarray) -> np.ndarray:
        """Return PEFT's tensor in the layout of our leaf."""
        return (value.T if self.path.endswith(TRANSPOSED) else value).reshape(self.own)


class Layout(NamedTuple):
    """The parameters of a base, encoder and at most one head, with Hugging Face's names."""

    names: dict[str, str]
    """{Hugging Face's name: our path}"""
    shapes: dict[str, tuple[int, ...]]
    """{our path: our shape}"""
    prefix: str
    """of the encoder's names"""
    dim: int
    depth: int
    heads: int
    """number of attention heads"""

    def linear(self) -> dict[str, tuple[str, int, int]]:
        """Return {Hugging Face's module: (our module, fan in, fan out)} of the dense layers outside the heads."""
        modules = {}
        for name, path in self.names.items():
            if path.endswith("/kernel") and not path.startswith("heads/"):
                fan_in, fan_out = self.shapes[path]
                modules[name.removesuffix(".weight")] = (path.removesuffix("/kernel"), fan_in, fan_out)
        return modules

    def norms(self) -> dict[str, str]:
        """Return {Hugging Face's module: our module} of the layer norms."""
        ends = ((name, path.removesuffix("/scale")) for name, path in self.names.items() if path.endswith("/scale"))
        return {name.removesuffix(".weight"): module for name, module in ends}

    def saved_modules(self, prefix: str, modules: Iterable[str]) -> list[Tensor]:
        """Return the tensors that PEFT saves in full: those in a module whose name ends with one of `modules`."""
        endings = tuple(modules)
        return [
            self.tensor(prefix, name, path)
            for name, path in self.names.items()
            if any(module.endswith(endings) for module in _around(name))
        ]

    def top_modules(self) -> tuple[str, ...]:
        """Return the names of the modules above the blocks, pooler and head, for PEFT's modules_to_save."""
        outside = [name for name, path in self.names.items() if not path.startswith(("embed/", "layers/"))]
        return tuple(dict.fromkeys(name.removeprefix(f"{self.prefix}.").split(".")[0] for name in outside))

    def tensor(self, prefix: str, name: str, path: str) -> Tensor:
        """Return a parameter of the base as a Tensor that is stored in full."""
        own = self.shapes[path]
        return Tensor(prefix + name, own[::-1] if path.endswith(TRANSPOSED) else own, path, own)


Stored = TypeVar("Stored", bound=Method)


class Format(NamedTuple, Generic[Stored, Known]):
    """How one peft_type is written and read."""

    methods: tuple[type[Stored], ...]
    """the methods that have this format"""
    config: type[Known]
    """the dataclass of its config fields"""
    prefix: str
    """of the keys of modules that are saved in full"""
    describe: Callable[[Stored, Layout, Iterable[str]], dict[str, Any]]
    """describe(method, layout, paths) -> the config fields of the method with leaves at `paths`"""
    method: Callable[[Known], dict[str, Any]]
    """method(config) -> the Method of a config, as JSON data"""
    tensors: Callable[[Known, Layout], list[Tensor]]
    """tensors(config, layout) -> the adapter's own Tensors"""
    families: tuple[str, ...] = ("bert", "roberta", "distilbert")
    """the model families on which PEFT supports it"""


Formats = Mapping[str, Format[Any, Any]]
"""by peft_type"""


def layout_of(family: Family, config: Config, head: str | None, classes: int, bare: bool = False) -> Layout:
    """Return the layout of a family's model of this size with a head of `classes` outputs; None: of the encoder alone.

    `bare`: the encoder's names have no prefix, as in a model without a head.
    """
    before = "" if bare else f"{family.prefix}."
    names = {f"{before}{name}": path for name, path in body_keys(family, config).items()}
    heads = {} if head is None else {head: classes}
    names |= {} if head is None else head_keys(family, config, head)
    sizes = config.shape
    shapes = expected_shapes(family, config, heads)
    return Layout(names, shapes, family.prefix, sizes.dim, sizes.depth, sizes.heads)


def targeted(
    config: Targeted, modules: dict[str, Place], kind: str, among: Callable[[str], bool] = lambda name: True
) -> dict[str, Place]:
    """Return those of some modules that a config's target_modules select, by PEFT's rules.

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
        raise InputError(f"target_modules {config.target_modules!r} name no {kind} of this base")
    return chosen


def linear_targets(config: Linear, layout: Layout) -> dict[str, tuple[str, int, int]]:
    """Return the dense layers that a config targets, {module: (our module, fan in, fan out)}.

    layers_to_transform restricts them to the blocks of these numbers; in a module's name the number comes after
    layers_pattern, by default after any component.

    Raises: as `targeted`.
    """
    blocks = listed(config.layers_to_transform)
    patterns = [compile_pattern(rf"(?:.*?\.)?{text}\.(\d+)\.") for text in listed(config.layers_pattern or r"[^.]*")]

    def among(name: str) -> bool:
        match = next(filter(None, (pattern.match(name) for pattern in patterns)), None)
        return not blocks or (match is not None and int(match[1]) in blocks)

    return targeted(config, layout.linear(), "linear layer", among)


def _selects(names: str | list[str], name: str, among: Callable[[str], bool] = lambda name: True) -> bool:
    if isinstance(names, str):
        return bool(compile_pattern(names).fullmatch(name))
    return name in names or (any(name.endswith(f".{ending}") for ending in names) and among(name))


def _around(name: str) -> list[str]:
    """Return the modules that contain a tensor: `a.b.weight` is in `a` and in `a.b`."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
