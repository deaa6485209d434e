"""Language tasks: the memory of the loss over a large vocabulary, and the time of comparing with the base in a step.

    python -m experiments.benchmarks.language [--rounds 7] [--steps 1] [--threads 2] [--only memory kl scoring]

`memory` is the temporary memory of the compiled gradient of the mean loss with respect to states [N, D], D = 576, and a
tied output layer [V, D], as XLA's analysis of the program gives it: in chunks, as fft.tasks.language computes it, and
plain, with the logits [N, V] of all places at once. `loss_memory_ratio` is chunked / plain for N = 4,096 and V =
49,152, `loss_memory_ratio_512` for N = 512, `loss_memory_ratio_262144` for N = 4,096 and V = 262,144.

`kl` is the time of steps of SmolLM2-135M's shape, float32, B = 4 texts of T = 128 tokens whose second half is
supervised. `kl_overhead` is that of lwf, the KL from the live base on the batch's own supervised tokens, over plain
supervised fine-tuning, less 1, and `cached_kl_overhead` that of lwf from the base's 20 likeliest tokens, which were
computed before. They alternate in one process as in experiments.benchmarks.step.

`scoring` is a run with default settings: three epochs on 400 texts of about 16 random tokens, 400 others as the
original task, in 4 layers of that shape to keep it short. `scoring_share` is the part of its seconds of training and
scoring that is scoring: the probe nine times, and both test splits before and after.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.device.models import Work, model_of, params_of
from experiments.benchmarks.smollm2 import SMOLLM2, B, T, add_rows, checkpoint, use_threads
from experiments.benchmarks.step import THREADS, alternate, paired_ratio, step_on
from fft.api import tune
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.core.batch import Batch
from fft.core.computation import Computation
from fft.core.network import outputs_of
from fft.data import load_tokenizer
from fft.methods import Full, LwF, Method
from fft.models import find_folder
from fft.tasks import Language
from fft.tasks.language import by_chunks

SIZES = {"": (4096, 49_152), "_512": (512, 49_152), "_262144": (4096, 262_144)}
"""(places, vocabulary) of each figure, by the end of its name"""
Part = Literal["memory", "kl", "scoring"]
PARTS: tuple[Part, ...] = ("memory", "kl", "scoring")
LIKELIEST = 20
LAYERS, ROWS, WORDS = 4, 400, (5, 15)
"""of the run whose scoring is measured: its layers, the texts of each task, and the range of their words"""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def loss_bytes(places: int, vocabulary: int, chunked: bool) -> int:
    """Return the bytes of temporary memory of the loss and its gradient, as compiled here."""
    task, dim = Language(), SMOLLM2["hidden_size"]

    def loss(states: jax.Array, embeddings: jax.Array, targets: jax.Array) -> jax.Array:
        def nll(states: jax.Array, targets: jax.Array) -> jax.Array:
            return task.nll(states @ embeddings.T, targets)

        terms = by_chunks(nll, states, targets) if chunked else nll(states, targets)
        return jnp.mean(terms)

    shapes = (
        jax.ShapeDtypeStruct((1, places, dim), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, dim), jnp.float32),
        jax.ShapeDtypeStruct((1, places), jnp.int32),
    )
    analysis = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
    assert analysis is not None  # XLA's CPU and GPU backends have one
    return analysis.temp_size_in_bytes


def memory(table: Table) -> dict[str, float]:
    """Measure the memory of the loss at all SIZES, and return the ratios."""
    figures = {}
    for ending, (places, vocabulary) in SIZES.items():
        plain, chunked = (loss_bytes(places, vocabulary, chunked) for chunked in (False, True))
        figures[f"loss_memory_ratio{ending}"] = chunked / plain
        table.add_row(f"{places:,} of {vocabulary:,}", f"{plain / 1e6:,.0f} MB plain", f"{chunked / 1e6:,.0f} MB")
    return figures


def step_of(method: Method) -> Callable[[], float]:
    """Return a step of `fft` on SmolLM2-135M's shape; the step returns the loss."""
    work = Work("language", "llama", SMOLLM2, B, T)
    model, base, task = model_of(work, Computation()), params_of(work), Language()
    rng = np.random.default_rng(0)
    ids = rng.integers(1, SMOLLM2["vocab_size"], (B, T + 1)).astype(np.int32)
    places = np.broadcast_to(np.arange(T // 2, T, dtype=np.int32), (B, T // 2))
    targets, weight = ids[:, 1:][:, T // 2 :], np.ones((B, T // 2), np.float32)
    row = np.arange(B, dtype=np.int32)
    batch = Batch(
        ids[:, :-1], np.ones((B, T), np.int32), np.zeros((B, T), np.int32), targets, weight, row, None, places
    )
    if not isinstance(method, LwF) or not method.likeliest:
        return step_on(model, base, task, method, batch, original=task)
    outputs = outputs_of(model, base, batch, read=(task.reads,))
    ids, logs = task.likeliest(outputs, batch, method.likeliest, method.temperature)
    aux = {"likeliest": ids.reshape(-1, method.likeliest), "logs": logs.reshape(-1, method.likeliest)}
    batch = batch._replace(numbers=np.arange(targets.size, dtype=np.int32).reshape(targets.shape))
    return step_on(model, base, task, method, batch, original=task, aux=aux)


def kl(table: Table, rounds: int, steps: int) -> dict[str, float]:
    """Measure steps with and without the KL from the base, add their rows to the table, and return the figures."""
    contenders = {"plain": Full(), "lwf": LwF(), "lwf, cached": LwF(likeliest=LIKELIEST)}
    seconds = alternate({name: step_of(method) for name, method in contenders.items()}, rounds, steps, warm=1)
    add_rows(table, "SmolLM2-135M", seconds, "plain")
    overhead = {name: paired_ratio(seconds[name], seconds["plain"])[0] - 1 for name in ("lwf", "lwf, cached")}
    return {"kl_overhead": overhead["lwf"], "cached_kl_overhead": overhead["lwf, cached"]}


def scoring(table: Table) -> dict[str, float]:
    """Run with default settings, add its seconds to the table, and return the share of scoring."""
    tokenizer_of = find_folder("demo:smollm2")
    words = [word for word in load_tokenizer(tokenizer_of).vocabulary if word.isascii() and word.isalpha()]
    rng = random.Random(0)
    with checkpoint("Llama", "CausalLM", **{**SMOLLM2, "num_hidden_layers": LAYERS}) as folder:
        for file in TOKENIZER_FILES:
            shutil.copy(tokenizer_of / file, folder)
        sources = {}
        for name in ("new", "original"):
            texts = [" ".join(rng.choices(words, k=rng.randrange(*WORDS))) for _ in range(ROWS)]
            sources[name] = str(Path(folder, f"{name}.jsonl"))
            Path(sources[name]).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        seconds = tune(folder, **sources, out=Path(folder, "run"), verbose=False).record["seconds"]
    share = seconds["scoring"] / (seconds["scoring"] + seconds["train"])
    table.add_row(f"{seconds['train']:.0f}", f"{seconds['scoring']:.0f}", f"{share:.3f}")
    return {"scoring_share": share}


def main(rounds: int = 7, steps: int = 1, threads: int = THREADS, only: tuple[Part, ...] = PARTS) -> None:
    """Measure the parts, and print tables and, last, one line of JSON."""
    use_threads(threads)
    keep_freed_memory()
    run_programs_in_turn()
    console, figures = Console(), {}
    if "memory" in only:
        table = Table("places of vocabulary", "plain", "chunked")
        figures |= memory(table)
        console.print(table)
    if "kl" in only:
        table = Table("model", "step", "ms", "range", "ratio", "compile, s")
        figures |= kl(table, rounds, steps)
        console.print(table)
    if "scoring" in only:
        table = Table("training, s", "scoring, s", "share of scoring")
        figures |= scoring(table)
        console.print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
