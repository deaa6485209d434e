"""SmolLM2-135M's shape with random weights, its matrix products, and what the programs that time it have in common."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from rich.table import Table

from experiments.benchmarks.products import forward, of_inputs, of_kernel, products
from experiments.benchmarks.step import paired_ratio

B, T = 4, 128
SAMPLED = 6
"""the layers of the decoder whose matrix products, and AdamW steps in torch, are measured alone"""
LABELS = ("negative", "neutral", "positive")
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}


@contextmanager
def checkpoint(family: str, head: str = "SequenceClassification", **fields: object) -> Iterator[str]:
    """Give a temporary folder with a model of a family and head, with random weights, as transformers writes it."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(num_labels=len(LABELS), **fields)
    with tempfile.TemporaryDirectory() as folder:
        getattr(transformers, f"{family}For{head}")(config).save_pretrained(folder)
        yield folder


def kernel_shapes() -> list[tuple[int, int]]:
    """Return (in, out) of the kernels of a layer of the decoder."""
    dim, mlp = SMOLLM2["hidden_size"], SMOLLM2["intermediate_size"]
    narrow = dim * SMOLLM2["num_key_value_heads"] // SMOLLM2["num_attention_heads"]
    return [(dim, dim), (dim, narrow), (dim, narrow), (dim, dim), (dim, mlp), (dim, mlp), (mlp, dim)]


def matrices() -> int:
    """Return P, the number of entries of the kernels of all layers."""
    return SMOLLM2["num_hidden_layers"] * sum(size * width for size, width in kernel_shapes())


def all_products() -> dict[str, Callable[[], None]]:
    """Return the matrix products of SAMPLED layers by either library, as contenders."""
    forms = (forward, of_inputs, of_kernel)
    return {
        f"products, {library}": products(library, kernel_shapes(), B * T, SAMPLED, forms)
        for library in ("jax", "torch")
    }


def whole_products(seconds: dict[str, list[float]], operations: float = 6.0) -> dict[str, list[float]]:
    """Return the seconds of `operations` · P · B T operations at the rate of each of `all_products`, by round.

    `seconds` are those of the contenders, which include the 6 · P · B T of SAMPLED layers by either library.
    """
    share = SMOLLM2["num_hidden_layers"] / SAMPLED * operations / 6
    return {name: [share * t for t in times] for name, times in seconds.items() if name.startswith("products, ")}


def compiled(take: Callable[[], float]) -> float:
    """Return the seconds to trace and compile a step that was not called yet: those of the first call minus another."""
    start = time.perf_counter()
    take()
    middle = time.perf_counter()
    take()
    return (middle - start) - (time.perf_counter() - middle)


def fastest(seconds: dict[str, list[float]]) -> str:
    """Return the name of the contender with the smallest median."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))


def add_rows(
    table: Table,
    model: str,
    seconds: Mapping[str, list[float]],
    reference: str,
    compilation: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Add a row for each contender, with its time relative to that of the `reference`."""
    for name, times in seconds.items():
        ratio, quartiles = paired_ratio(times, seconds[reference])
        spread = f"{1e3 * min(times):.0f}-{1e3 * max(times):.0f}"
        compile_cell = f"{compilation[name]:.1f}" if name in compilation else ""
        median = f"{1e3 * statistics.median(times):.0f}"
        table.add_row(model, name, median, spread, f"{ratio:.3f} {quartiles}", compile_cell)


def use_threads(threads: int) -> None:
    """Limit jax, which counts the cores that the process may use, and torch to this many threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
