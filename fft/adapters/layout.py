"""The names PEFT gives to what an adapter holds, and ours: one list of tensors that writing and reading share."""

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

    Matrices that multiply are transposed between the two, whatever else differs in shape is a vector with an axis of 1.
    """

    key: str
    shape: tuple[int, ...]
    path: str
    own: tuple[int, ...]

    def theirs(self, leaf: np.ndarray) -> np.ndarray:
        """A leaf of ours, laid out as PEFT stores it."""
        return (leaf.T if self.path.endswith(TRANSPOSED) else leaf).reshape(self.shape)

    def ours(self, value: np.ndarray) -> np.ndarray:
        """A stored tensor, laid out as our leaf."""
        return (value.T if self.path.endswith(TRANSPOSED) else value).reshape(self.own)


class Layout(NamedTuple):
    """A base as PEFT sees it: Hugging Face's names of encoder and one head, {name: our path}, and our shapes."""

    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    prefix: str
    """of the encoder's names"""
    dim: int
    depth: int
    heads: int
    """of attention"""

    def linear(self) -> dict[str, tuple[str, int, int]]:
        """{Hugging Face's module: (our module, fan in, fan out)} of the dense layers below the heads."""
        found = {}
        for name, path in self.names.items():
            if path.endswith("/kernel") and not path.startswith("heads/"):
                fan_in, fan_out = self.shapes[path]
                found[name.removesuffix(".weight")] = (path.removesuffix("/kernel"), fan_in, fan_out)
        return found

    def norms(self) -> dict[str, str]:
        """{Hugging Face's module: our module} of the layer norms."""
        ends = ((name, path.removesuffix("/scale")) for name, path in self.names.items() if path.endswith("/scale"))
        return {name.removesuffix(".weight"): module for name, module in ends}

    def whole(self, prefix: str, modules: Iterable[str]) -> list[Tensor]:
        """The tensors PEFT saves whole: those of a module, or inside one, whose name ends like one of `modules`."""
        endings = tuple(modules)
        return [
            self.tensor(prefix, name, path)
            for name, path in self.names.items()
            if any(module.endswith(endings) for module in _around(name))
        ]

    def above(self) -> tuple[str, ...]:
        """The modules above the blocks, pooler and head, by the names under which PEFT can save them whole."""
        outside = [name for name, path in self.names.items() if not path.startswith(("embed/", "layers/"))]
        return tuple(dict.fromkeys(name.removeprefix(f"{self.prefix}.").split(".")[0] for name in outside))

    def tensor(self, prefix: str, name: str, path: str) -> Tensor:
        """A whole parameter as PEFT stores it."""
        own = self.shapes[path]
        return Tensor(prefix + name, own[::-1] if path.endswith(TRANSPOSED) else own, path, own)


Stored = TypeVar("Stored", bound=Method)


class Format(NamedTuple, Generic[Stored, Known]):
    """How one peft_type is written and read.

    methods: the methods that are stored so; config: the dataclass of its fields; prefix: of the keys of whole modules;
    describe(method, layout, paths) -> the fields that say what the method with leaves at `paths` is;
    method(config) -> the Method of a config, as JSON data; tensors(config, layout) -> the adapter's own Tensors;
    families: those on which PEFT computes it.
    """

    methods: tuple[type[Stored], ...]
    config: type[Known]
    prefix: str
    describe: Callable[[Stored, Layout, Iterable[str]], dict[str, Any]]
    method: Callable[[Known], dict[str, Any]]
    tensors: Callable[[Known, Layout], list[Tensor]]
    families: tuple[str, ...] = ("bert", "roberta", "distilbert")


Formats = Mapping[str, Format[Any, Any]]
"""by peft_type"""


def layout_of(family: Family, config: Config, head: str | None, classes: int, bare: bool = False) -> Layout:
    """The layout of a family's model of this size with a head of `classes` outputs; without one, of the encoder.

    `bare`: the encoder's names stand without its prefix, as in a model that is nothing else.
    """
    before = "" if bare else f"{family.prefix}."
    names = {f"{before}{name}": path for name, path in body_keys(family, config).items()}
    heads = {} if head is None else {head: classes}
    names |= {} if head is None else head_keys(family, head)
    sizes = config.shape
    shapes = expected_shapes(family, config, heads)
    return Layout(names, shapes, family.prefix, sizes.dim, sizes.depth, sizes.heads)


def targeted(
    config: Targeted, modules: dict[str, Place], kind: str, among: Callable[[str], bool] = lambda name: True
) -> dict[str, Place]:
    """Those of some modules that a config's target_modules name, by PEFT's rules; `kind` is what they are called.

    A text is a regular expression over whole names; a list holds names, or how names end after a dot, which stands for
    those `among` which they are to be. exclude_modules is read likewise, and modules_to_save are no targets.
    """
    chosen = {
        name: place
        for name, place in modules.items()
        if _named(config.target_modules, name, among)
        and not _named(config.exclude_modules or [], name)
        and not any(f".{saved}." in f".{name}." for saved in config.modules_to_save or [])
    }
    if not chosen:
        raise InputError(f"target_modules {config.target_modules!r} name no {kind} of this base")
    return chosen


def linear_targets(config: Linear, layout: Layout) -> dict[str, tuple[str, int, int]]:
    """The dense layers that a config is for, {module: (our module, fan in, fan out)}; layers_to_transform keeps the
    blocks of these numbers, which stand in a name behind layers_pattern, or behind anything.
    """
    wanted = listed(config.layers_to_transform)
    patterns = [compile_pattern(rf"(?:.*?\.)?{each}\.(\d+)\.") for each in listed(config.layers_pattern or r"[^.]*")]

    def among(name: str) -> bool:
        found = next(filter(None, (pattern.match(name) for pattern in patterns)), None)
        return not wanted or (found is not None and int(found[1]) in wanted)

    return targeted(config, layout.linear(), "linear layer", among)


def _named(wanted: str | list[str], name: str, among: Callable[[str], bool] = lambda name: True) -> bool:
    if isinstance(wanted, str):
        return bool(compile_pattern(wanted).fullmatch(name))
    return name in wanted or (any(name.endswith(f".{each}") for each in wanted) and among(name))


def _around(name: str) -> list[str]:
    """The modules that a tensor is in: `a.b.weight` is in `a` and in `a.b`."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
