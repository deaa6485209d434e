"""What decoders are used for by `fft`, against torch eager and against the machine: steps, Fisher, generation.

    python -m experiments.benchmarks.decoder_step [--rounds 7] [--steps 1] [--threads 2] [--only full lora]

The parts are `full`, full fine-tuning steps of a decoder and of ModernBERT, described here, and `lora`, `fisher` and
`generate`, described in experiments.benchmarks.decoder_uses.

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
import statistics
from collections.abc import Callable
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.decoder_uses import fisher, generate, lora
from experiments.benchmarks.smollm2 import (
    LABELS,
    SAMPLED,
    SMOLLM2,
    B,
    T,
    add_rows,
    all_products,
    checkpoint,
    compiled,
    fastest,
    kernel_shapes,
    matrices,
    use_threads,
    whole_products,
)
from experiments.benchmarks.step import THREADS, alternate, make_batch, our_step, paired_ratio, torch_step
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.methods import Full

MODERNBERT_DEPTH = 6
FORMS = ("foreach", "fused")
SHORTEST, SHORT = 12, "fft, 1 row of 12 tokens"
Part = Literal["full", "lora", "fisher", "generate"]


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
    torchs = torch_step(None, batch, folder, LABELS, **{form: True})
    return alternate({"fft": ours, "torch": torchs, **others}, rounds, steps, warm=1), seconds


def full(table: Table, rounds: int, steps: int) -> dict[str, float | str]:
    """Measure full steps of both models, add their rows to the table, and return the figures."""
    form = fastest(alternate({form: adamw(form) for form in FORMS}, max(3, rounds), 3))
    with checkpoint("Llama", **SMOLLM2) as folder:
        short = {SHORT: our_step(Full(), make_batch(SHORTEST, 1, LABELS), folder, LABELS)}
        decoder, decoder_compile = measure(folder, form, all_products() | short, rounds, steps)
    gc.collect()
    with checkpoint("ModernBert", num_hidden_layers=MODERNBERT_DEPTH) as folder:
        modernbert, modernbert_compile = measure(folder, form, {}, rounds, steps)
    products = whole_products(decoder)
    limit = fastest(products)
    times = products[limit]
    add_rows(table, "SmolLM2-135M", decoder | products, "torch", {"fft": decoder_compile})
    add_rows(table, f"ModernBERT, {MODERNBERT_DEPTH} layers", modernbert, "torch", {"fft": modernbert_compile})
    fixed = statistics.median(decoder[SHORT]) - SHORTEST / (B * T) * statistics.median(times)
    per_second = 6 * matrices() * B * T / statistics.median(times)
    return {
        "full_ratio": paired_ratio(decoder["fft"], decoder["torch"])[0],
        "full_of_limit": paired_ratio(times, decoder["fft"])[0],
        "torch_of_limit": paired_ratio(times, decoder["torch"])[0],
        "fixed_seconds": fixed,
        "full_seconds": statistics.median(decoder["fft"]),
        "torch_seconds": statistics.median(decoder["torch"]),
        "torch_adamw": form,
        "limit": limit,
        "limit_gflops": per_second / 1e9,
        "modernbert_ratio": paired_ratio(modernbert["fft"], modernbert["torch"])[0],
        "compile_seconds": decoder_compile,
        "modernbert_compile_seconds": modernbert_compile,
        "jax_products_seconds": statistics.median(products["products, jax"]),
        "torch_products_seconds": statistics.median(products["products, torch"]),
    }


PARTS: dict[Part, Callable[[Table, int, int], dict[str, float | str]]] = {
    "full": full,
    "lora": lora,
    "fisher": fisher,
    "generate": generate,
}


def main(rounds: int = 7, steps: int = 1, threads: int = THREADS, only: tuple[Part, ...] = tuple(PARTS)) -> None:
    """Measure the parts, print the table and, last, the figures as JSON."""
    keep_freed_memory()
    run_programs_in_turn()
    use_threads(threads)
    table, figures = Table("model", "step", "median ms", "min-max ms", "relative (quartiles)", "compile s"), {}
    for part in only:
        figures |= PARTS[part](table, rounds, steps)
        gc.collect()
    Console(width=110).print(table)
    print(json.dumps({**figures, "threads": threads}))


if __name__ == "__main__":
    tyro.cli(main)
