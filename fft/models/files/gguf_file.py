"""GGUF files: their metadata, and their tensors de-quantized to float32.

A header is not trusted: every count and length is compared with what is left of the file before it is read, so that
none can make this allocate more than the file's own size. The format is described in
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the blocks of numbers are de-quantized by the package gguf.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fft.core.errors import InputError
from fft.disk.sniff import check_not_pointer, first_bytes

MAGIC, SUFFIX = b"GGUF", ".gguf"
VERSIONS = (2, 3)
NUMBERS = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
STRING, ARRAY = 8, 9
COUNT, SIZE = np.dtype("<u4"), np.dtype("<u8")
SHORTEST_PAIR, SHORTEST_TENSOR = 13, 32
"""the fewest bytes of a key with its value, and of the description of a tensor"""
MOST_DIMENSIONS, MOST_NUMBERS = 4, 10**7
"""of a tensor, and in a list of the metadata"""
QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
"""how tensors may be stored, by ggml's names"""
AGAIN = "download it again"


class Stored(NamedTuple):
    """How a tensor is stored: ggml's number of its quantisation, its shape, and its bytes [rows, bytes of a row]."""

    quantisation: int
    shape: tuple[int, ...]
    content: np.ndarray


class GGUF(NamedTuple):
    """An opened GGUF file: metadata by key, and tensors by name, whose bytes stay in the file until they are used."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]


def is_gguf(path: Path) -> bool:
    """Whether a path is called .gguf or is a file that begins as one. Raises: MachineError if it cannot be read."""
    if path.suffix.lower() == SUFFIX:
        return not path.is_dir()
    return path.is_file() and first_bytes(path, len(MAGIC)) == MAGIC


def check_begins(path: Path) -> None:
    """Check that a file exists and begins as a GGUF file. Raises: InputError; MachineError if it cannot be read."""
    if not path.is_file():
        raise InputError(f"the GGUF file {path} does not exist; expected a file that ends in {SUFFIX}")
    check_not_pointer(path)
    if first_bytes(path, len(MAGIC)) != MAGIC:
        raise InputError(f"{path} is not a GGUF file: it does not begin with {MAGIC.decode()}; name another file")


def read_gguf(path: Path) -> GGUF:
    """Read the header of a GGUF file.

    Raises: InputError for a file that is not a whole GGUF file, is one of several parts, or has a quantisation that is
    not in QUANTISATIONS; MachineError if it cannot be read.
    """
    check_begins(path)
    header = _Header(path, np.memmap(path, np.uint8, "r"), len(MAGIC))
    version = header.number(COUNT)
    if version not in VERSIONS:
        what = f"version {version}" if version < 1 << 16 else "a big-endian version"
        raise InputError(f"{path} is GGUF of {what}; only versions {VERSIONS[0]} and {VERSIONS[1]} can be read")
    tensors = header.count(SHORTEST_TENSOR, "tensors")
    metadata = header.pairs(header.count(SHORTEST_PAIR, "keys"))
    if (parts := metadata.get("split.count", 1)) not in (0, 1):
        raise InputError(f"{path} is one of {parts} files: join them into one first, with llama-gguf-split --merge")
    return GGUF(path, metadata, header.tensors(tensors, metadata.get("general.alignment", 32)))


def dequantized(file: GGUF, name: str) -> np.ndarray:
    """Return a tensor as float32. Raises: InputError if it has values that are not finite."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    stored = file.tensors[name]
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused
        values = dequantize(stored.content, GGMLQuantizationType(stored.quantisation))
    if not np.isfinite(values).all():
        raise InputError(f"{file.path}: {name} holds values that are not finite (NaN or infinity): {AGAIN}")
    return np.ascontiguousarray(values, np.float32).reshape(stored.shape)


class _Header:
    """Reads a file from `at` on, never beyond its end."""

    def __init__(self, path: Path, content: np.ndarray, at: int) -> None:
        self.path, self.content, self.at = path, content, at

    def damaged(self, problem: str) -> InputError:
        return InputError(f"{self.path} is truncated or damaged: {problem}; {AGAIN}")

    def take(self, size: int) -> np.ndarray:
        """Return the next bytes."""
        if size > len(self.content) - self.at:
            raise self.damaged(f"{size} bytes are announced at byte {self.at}, but the file has {len(self.content)}")
        self.at += size
        return self.content[self.at - size : self.at]

    def number(self, kind: np.dtype) -> Any:
        """Return the next number; a float32 as the shortest decimal number that it stands for."""
        value = self.take(kind.itemsize).view(kind)[0]
        return float(str(value)) if kind.kind == "f" else value.item()

    def count(self, shortest: int, what: str) -> int:
        """Return the next count, of things that have at least `shortest` bytes each."""
        count = self.number(SIZE)
        if count * shortest > len(self.content) - self.at:
            raise self.damaged(f"it announces {count} {what}, but has {len(self.content)} bytes")
        return count

    def text(self) -> str:
        """Return the next text."""
        content = self.take(self.number(SIZE)).tobytes()
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"the text before byte {self.at} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        """Return the next value: a number, a text, or a list of either."""
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array(self.number(COUNT))
        return self.number(self.known(kind))

    def array(self, kind: int) -> Any:
        """Return the next values of one kind."""
        if kind == STRING:
            return [self.text() for _ in range(self.count(SIZE.itemsize, "texts"))]
        dtype = self.known(kind)
        count = self.count(dtype.itemsize, "numbers")
        if count > MOST_NUMBERS:
            raise self.damaged(f"a list before byte {self.at} has {count} numbers")
        return self.take(count * dtype.itemsize).view(dtype).tolist()

    def known(self, kind: int) -> np.dtype:
        """Return the dtype of a kind of numbers."""
        if kind not in NUMBERS:
            raise self.damaged(f"the value at byte {self.at} has the unknown type {kind}")
        return NUMBERS[kind]

    def pairs(self, count: int) -> dict[str, Any]:
        """Return the metadata."""
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.text()
            if key in found:
                raise self.damaged(f"the key {key} occurs twice")
            found[key] = self.value(self.number(COUNT))
        return found

    def tensors(self, count: int, alignment: Any) -> dict[str, Stored]:
        """Return the tensors, which begin at the first multiple of `alignment` behind their descriptions.

        They lie there one behind the other, each at a multiple of `alignment`, and fill the rest of the file: where
        they do not, the descriptions are wrong.
        """
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self.damaged(f"general.alignment must be a power of two, but is {alignment}")
        described: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name = self.text()
            dimensions = self.number(COUNT)
            if name in described or not 1 <= dimensions <= MOST_DIMENSIONS:
                raise self.damaged(f"the tensor {name} occurs twice or has {dimensions} dimensions")
            shape = tuple(self.number(SIZE) for _ in range(dimensions))[::-1]
            if 0 in shape:
                raise self.damaged(f"the tensor {name} has the shape {shape}")
            described[name] = shape, self.number(COUNT), self.number(SIZE)
        start = end = -(-self.at // alignment) * alignment
        stored = {}
        for name, (shape, quantisation, offset) in described.items():
            if start + offset != end:
                raise self.damaged(f"{name} is said to begin at byte {start + offset}, where {end} is the next one")
            stored[name] = self.stored(name, shape, quantisation, end)
            end = -(-self.at // alignment) * alignment
        if len(self.content) > end:
            raise self.damaged(f"its tensors end at byte {end}, but the file has {len(self.content)}")
        return stored

    def stored(self, name: str, shape: tuple[int, ...], quantisation: int, start: int) -> Stored:
        """Return the tensor whose bytes begin at byte `start`."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        known = {kind.value: kind for kind in GGMLQuantizationType}
        called = known[quantisation].name if quantisation in known else f"type {quantisation}"
        if called not in QUANTISATIONS:
            raise InputError(
                f"{self.path}: {name} is stored as {called}; supported are {', '.join(QUANTISATIONS)}: get the model "
                "in one of them"
            )
        values, size = GGML_QUANT_SIZES[known[quantisation]]
        if shape[-1] % values:
            raise self.damaged(f"the rows of {name} have {shape[-1]} numbers, which are not whole blocks of {called}")
        self.at, rows, row = start, math.prod(shape[:-1]), shape[-1] // values * size
        return Stored(quantisation, shape, self.take(rows * row).reshape(rows, row))
