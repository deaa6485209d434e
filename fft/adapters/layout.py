"""The modules and tensors of a base under transformers' names, and where our leaves are in an adapter's tensors."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from fft.adapters.config import Known
from fft.methods import Method
from fft.models.files.keys import body_keys, expected_shapes, head_keys
from fft.models.files.unembed import KERNEL, WORDS, written_keys
from fft.models.model import Checkpoint, Family

Leaves = Mapping[str, np.ndarray]


class Tensor(NamedTuple):
    """One tensor of an adapter's file: PEFT's key and shape, and {our path: the function that makes our leaf of it}.

    A tensor gives several leaves where transformers fuses what are separate modules here.
    """

    key: str
    shape: tuple[int, ...]
    leaves: Mapping[str, Callable[[np.ndarray], np.ndarray]]


class Part(NamedTuple):
    """One of our dense modules in a module of transformers, which may hold several, their outputs one after another."""

    module: str
    """its path; its weight is `module`/kernel [fan_in, fan_out]"""
    fan_in: int
    fan_out: int
    rows: slice
    """its outputs among those of transformers' module"""


class Table(NamedTuple):
    """A table of embeddings [V, D], the leaf `module`/embedding."""

    module: str
    rows: int
    dim: int


class Layout(NamedTuple):
    """The parameters of a base: body, at most one head, and the language head if it was loaded."""

    names: dict[str, str]
    """{transformers' name: our path}; of a fused tensor the names of its parts, as in the key tables"""
    shapes: dict[str, tuple[int, ...]]
    """{our path: our shape}"""
    family: Family
    dim: int
    depth: int
    heads: int
    """number of attention heads"""
    kv_heads: int
    """number of heads of keys and values"""
    kv_dim: int
    """the width of a block's keys, of all heads together"""

    def fused(self, name: str) -> str:
        """Return the name of the tensor in transformers that holds the one with this name in the key tables."""
        for stack, parts in self.family.stacks:
            for part in parts:
                if part in name:
                    return name.replace(part, stack)
        return name

    def linear(self) -> dict[str, tuple[Part, ...]]:
        """Return {transformers' module: its Parts} of the dense modules but the last ones of the sequence heads."""
        modules: dict[str, tuple[Part, ...]] = {}
        for name, path in self.names.items():
            if path.endswith("/kernel") and not (path.startswith("heads/") and path.endswith("/out/kernel")):
                fan_in, fan_out = self.shapes[path]
                module = self.fused(name).removesuffix(".weight")
                others = modules.get(module, ())
                start = others[-1].rows.stop if others else 0
                own = Part(path.removesuffix("/kernel"), fan_in, fan_out, slice(start, start + fan_out))
                modules[module] = (*others, own)
        return modules

    def tables(self) -> dict[str, Table]:
        """Return {transformers' module: Table} of the embeddings."""
        ends = {name.removesuffix(".weight"): path for name, path in self.names.items() if path.endswith("/embedding")}
        return {name: Table(path.removesuffix("/embedding"), *self.shapes[path]) for name, path in ends.items()}

    def norms(self) -> dict[str, str]:
        """Return {transformers' module: our module} of the norms."""
        ends = ((name, path.removesuffix("/scale")) for name, path in self.names.items() if path.endswith("/scale"))
        return {name.removesuffix(".weight"): module for name, module in ends}

    def within(self, modules: Iterable[str]) -> list[str]:
        """Return the names of the tensors that PEFT saves in full: in modules whose names end with one of `modules`."""
        endings = tuple(modules)
        return [name for name in self.names if any(module.endswith(endings) for module in _around(self.fused(name)))]

    def saved_for_head(self) -> list[str]:
        """Return the modules of pooler and head, for PEFT's modules_to_save."""
        above = [name for name, path in self.names.items() if path.startswith(("pooler/", "heads/"))]
        return list(dict.fromkeys(name.removeprefix(f"{self.family.prefix}.").split(".")[0] for name in above))

    def stored(self, leaves: Leaves, paths: Iterable[str]) -> dict[str, np.ndarray]:
        """Return {transformers' name: tensor} of whole leaves as transformers stores them, fused ones together."""
        names = {path: name for name, path in self.names.items()}
        apart = {names[path]: leaves[path].T if path.endswith("/kernel") else leaves[path] for path in paths}
        return self.family.join(apart)


class Written(NamedTuple):
    """An adapter's own leaves as PEFT stores them."""

    fields: dict[str, Any]
    """of its config"""
    tensors: dict[str, np.ndarray]
    """by PEFT's keys"""
    paths: frozenset[str]
    """the leaves that the tensors hold"""


Stored = TypeVar("Stored", bound=Method)


class Format(NamedTuple, Generic[Stored, Known]):
    """How one peft_type is written and read."""

    methods: tuple[type[Stored], ...]
    """the methods that have this format"""
    config: type[Known]
    """the dataclass of its config fields"""
    prefix: str
    """of the keys of modules that are saved in full"""
    method: Callable[[Known], dict[str, Any]]
    """method(config) -> the Method of a config, as JSON data"""
    tensors: Callable[[Known, Layout], list[Tensor]]
    """tensors(config, layout) -> the adapter's own Tensors"""
    written: Callable[[Stored, Layout, Leaves, Leaves], Written]
    """written(method, layout, base, theta) -> the adapter's own leaves"""
    without: tuple[str, ...] = ()
    """the model families on which PEFT does not compute it"""


Formats = Mapping[str, Format[Any, Any]]
"""by peft_type"""


def layout_of(base: Checkpoint, family: Family, head: str | None, classes: int, bare: bool = False) -> Layout:
    """Return the layout of a base with a head of `classes` outputs; None: without one.

    `bare`: the body's names have no prefix, as in a model without a head.
    """
    config = base.model.config
    before = "" if bare else f"{family.prefix}."
    names = {f"{before}{name}": path for name, path in body_keys(family, config).items()}
    shapes = expected_shapes(family, config, {} if head is None else {head: classes})
    names |= {} if head is None else head_keys(family, config, head)
    if base.language and not family.language.masked:
        names |= written_keys(family, config) or {f"{family.language.rows[0][0]}.weight": KERNEL}
        shapes[KERNEL] = shapes[WORDS][::-1]
    sizes, kv_dim = config.shape, shapes["layers/0/attention/key/kernel"][1]
    kv_heads = getattr(sizes, "kv_heads", sizes.heads)
    return Layout(names, shapes, family, sizes.dim, sizes.depth, sizes.heads, kv_heads, kv_dim)


def whole(key: str, shape: tuple[int, ...], path: str, own: tuple[int, ...]) -> Tensor:
    """Return the Tensor of one leaf that has the shape `own` here; the two differ in axes of 1 or in their grouping."""
    return Tensor(key, shape, {path: lambda value: value.reshape(own)})


def _around(name: str) -> list[str]:
    """Return the modules that contain a tensor: `a.b.weight` is in `a` and in `a.b`."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
