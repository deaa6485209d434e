"""One full fine-tuning step of a decoder and of ModernBERT by `fft`, against torch eager and against the machine.

    python -m experiments.benchmarks.decoder_step [--rounds 7] [--steps 1] [--threads 2]

The decoder has the shape of SmolLM2-135M (30 layers, D = 576, F = 1536, 9 heads, 3 key-value heads) with random weights
and a score head of 3 labels. ModernBERT has the base size, but 6 of its 22 layers, to keep the run short. Both take the
same batch: B = 4 rows, T = 128 tokens, float32, padded from lengths of 12 to 128, which costs both sides as much as
rows without padding. The step is AdamW with decay on matrices and clip 1, without dropout. Torch runs transformers'
model eagerly with `sdpa` attention and torch's AdamW in its foreach or its fused form, whichever is faster here on the
kernels of 6 layers.

The implementations alternate in one process as in experiments.benchmarks.step. A ratio below 1 means that `fft` is
faster. On a busy machine compare with `--threads 1`: torch's threads wait for each other at the end of every operation,
and where other processes hold a core, two of them can take over twice the time of one.

The limit is the time that the matrix products of the step take on this machine. For each kernel W [in, out] of every
layer of the decoder and tokens x [B T, in], g [B T, out], these are x W, g Wᵀ and xᵀ g, by jax as one program a layer
or by torch as calls of their own, whichever is faster. They are measured for 6 layers, whose kernels exceed the caches,
and scaled to the depth. They are 6 · P · B T operations, where P is the number of entries of these kernels.
The embeddings do not count, because a score head only looks rows up, nor does the head itself. Then

    full_of_limit = (6 · P · B T / products per second) / seconds of our step,

where products per second are the operations of the measured products divided by their time. It is 1 for a step that
does nothing but these products at their measured speed. As the last layer computes its MLP and most of its attention
for one token of each row only, a step of `fft` has 3 % fewer operations than the formula.

A step of one row of 12 tokens shows what does not depend on the text: the gradient's norm and AdamW, which read and
write every parameter. `fixed_seconds` is its time without that of its own products.
"""

import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.step import THREADS, alternate, make_batch, our_step, paired_ratio, torch_step
from fft.core.allocator import keep_freed_memory
from fft.methods import Full

B, T, MODERNBERT_DEPTH = 4, 128, 6
FORMS = ("foreach", "fused")
SHORTEST, SHORT = 12, "fft, 1 row of 12 tokens"
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
def checkpoint(family: str, **fields: object) -> Iterator[str]:
    """Give a temporary folder with a classifier of a family, with random weights, as transformers writes it."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(num_labels=len(LABELS), **fields)
    with tempfile.TemporaryDirectory() as folder:
        getattr(transformers, f"{family}ForSequenceClassification")(config).save_pretrained(folder)
        yield folder


def kernel_shapes() -> list[tuple[int, int]]:
    """Return (in, out) of the kernels of a layer of the decoder."""
    dim, mlp = SMOLLM2["hidden_size"], SMOLLM2["intermediate_size"]
    narrow = dim * SMOLLM2["num_key_value_heads"] // SMOLLM2["num_attention_heads"]
    return [(dim, dim), (dim, narrow), (dim, narrow), (dim, dim), (dim, mlp), (dim, mlp), (mlp, dim)]


def products(library: str) -> Callable[[], None]:
    """Return a function that computes the matrix products of SAMPLED layers one by one, by "jax" or "torch"."""
    rng = np.random.default_rng(0)
    make = jax.numpy.asarray if library == "jax" else torch.tensor

    def normal(*shape: int) -> object:
        return make(rng.standard_normal(shape, np.float32))

    # Each kernel of a layer has its own x and g: XLA would compute equal products once.
    texts = [(normal(B * T, size), normal(B * T, width)) for size, width in kernel_shapes()]
    layers = [[normal(*shape) for shape in kernel_shapes()] for _ in range(SAMPLED)]
    forms = (lambda x, g, kernel: x @ kernel, lambda x, g, kernel: g @ kernel.T, lambda x, g, kernel: x.T @ g)

    def of_layer(texts: list[tuple], layer: list) -> list:
        return [form(x, g, kernel) for (x, g), kernel in zip(texts, layer, strict=True) for form in forms]

    compute = jax.jit(of_layer) if library == "jax" else of_layer

    def compute_all() -> None:
        for layer in layers:
            results = compute(texts, layer)
            if library == "jax":
                jax.block_until_ready(results)

    return compute_all


def compiled(take: Callable[[], float]) -> float:
    """Return the seconds to trace and compile a step that was not called yet: those of the first call minus another."""
    start = time.perf_counter()
    take()
    middle = time.perf_counter()
    take()
    return (middle - start) - (time.perf_counter() - middle)


def adamw(form: str) -> Callable[[], None]:
    """Return a step of torch's AdamW in one of FORMS on the kernels of SAMPLED layers."""
    parameters = [torch.nn.Parameter(torch.ones(shape)) for _ in range(SAMPLED) for shape in kernel_shapes()]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    return torch.optim.AdamW(parameters, **{form: True}).step


def measure(
    folder: str, form: str, others: dict[str, Callable], rounds: int, steps: int
) -> tuple[dict[str, list[float]], float]:
    """Return the seconds per step in every round of `fft`, of torch and of `others`, and our seconds to compile."""
    batch = make_batch(T, B, LABELS)
    ours = our_step(Full(), batch, folder, LABELS)
    seconds = compiled(ours)
    torchs = torch_step(False, batch, folder, LABELS, **{form: True})
    return alternate({"fft": ours, "torch": torchs, **others}, rounds, steps, warm=1), seconds


def fastest(seconds: dict[str, list[float]]) -> str:
    """Return the name of the contender with the smallest median."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))


def add_rows(table: Table, model: str, seconds: dict[str, list[float]], compilation: float) -> float:
    """Add a row for each contender, and return the ratio of `fft` to the faster torch."""
    for name, times in seconds.items():
        ratio, quartiles = paired_ratio(times, seconds["torch"])
        spread = f"{1e3 * min(times):.0f}-{1e3 * max(times):.0f}"
        compile_cell = f"{compilation:.1f}" if name == "fft" else ""
        median = f"{1e3 * statistics.median(times):.0f}"
        table.add_row(model, name, median, spread, f"{ratio:.3f} {quartiles}", compile_cell)
    return paired_ratio(seconds["fft"], seconds["torch"])[0]


def compare(rounds: int, steps: int) -> None:
    """Measure both models, print the table and, last, the figures as JSON."""
    form = fastest(alternate({form: adamw(form) for form in FORMS}, max(3, rounds), 3))
    singles = {f"products, {library}": products(library) for library in ("jax", "torch")}
    with checkpoint("Llama", **SMOLLM2) as folder:
        short = {SHORT: our_step(Full(), make_batch(SHORTEST, 1, LABELS), folder, LABELS)}
        decoder, decoder_compile = measure(folder, form, singles | short, rounds, steps)
    gc.collect()
    with checkpoint("ModernBert", num_hidden_layers=MODERNBERT_DEPTH) as folder:
        modernbert, modernbert_compile = measure(folder, form, {}, rounds, steps)
    share = SMOLLM2["num_hidden_layers"] / SAMPLED
    decoder |= {name: [share * times for times in decoder[name]] for name in singles}
    table = Table("model", "step", "median ms", "min-max ms", "of torch (quartiles)", "compile s")
    full_ratio = add_rows(table, "SmolLM2-135M", decoder, decoder_compile)
    modernbert_ratio = add_rows(table, f"ModernBERT, {MODERNBERT_DEPTH} layers", modernbert, modernbert_compile)
    Console(width=110).print(table)
    limit = fastest({name: decoder[name] for name in singles})
    fixed = statistics.median(decoder[SHORT]) - SHORTEST / (B * T) * statistics.median(decoder[limit])
    matrices = SMOLLM2["num_hidden_layers"] * sum(size * width for size, width in kernel_shapes())
    operations = 6 * matrices * B * T
    per_second = operations / statistics.median(decoder[limit])
    print(f"{limit}: {operations / 1e9:.0f} GFLOP at {per_second / 1e9:.1f} GFLOP/s; {matrices / 1e6:.1f}M entries")
    figures = {
        "full_ratio": full_ratio,
        "full_of_limit": paired_ratio(decoder[limit], decoder["fft"])[0],
        "torch_of_limit": paired_ratio(decoder[limit], decoder["torch"])[0],
        "fixed_seconds": fixed,
        "full_seconds": statistics.median(decoder["fft"]),
        "torch_seconds": statistics.median(decoder["torch"]),
        "torch_adamw": form,
        "threads": torch.get_num_threads(),
        "limit_gflops": per_second / 1e9,
        "modernbert_ratio": modernbert_ratio,
        "compile_seconds": decoder_compile,
        "modernbert_compile_seconds": modernbert_compile,
        "jax_products_seconds": statistics.median(decoder["products, jax"]),
        "torch_products_seconds": statistics.median(decoder["products, torch"]),
    }
    print(json.dumps(figures))


def use_threads(threads: int) -> None:
    """Limit jax, which counts the cores that the process may use, and torch to this many threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)


def main(rounds: int = 7, steps: int = 1, threads: int = THREADS) -> None:
    """Compare the steps of both models."""
    keep_freed_memory()
    use_threads(threads)
    compare(rounds, steps)


if __name__ == "__main__":
    tyro.cli(main)
