"""The gradient on packed texts against that on texts that are padded.

    python -m experiments.benchmarks.packing [--rounds 5] [--batches 2] [--layers 6] [--rows 32] [--tokens 128]

The texts are tweets as SmolLM2's tokenizer reads them, and all of their tokens are predicted. The model has the shape
of SmolLM2-135M with random weights, float32, with 6 of its 30 layers to keep the run short. A batch has B = 32 rows:
`random` ones padded to the longest of their batch, rows `grouped` by length as `fft tune` does by default, or rows of
T = 128 tokens into which texts are `packed`. On all sides the output layer is computed at the places of the batch: S a
row, the most targets that a row has. One pass is forward and backward, without an optimizer, whose cost does not depend
on the tokens and would count for more on the smaller batches of padded rows.

They alternate in one process, as in experiments.benchmarks.step, each with `batches` batches of its own, and are
compared by their seconds per token of text:

    speedup = random / packed,  against_grouped = grouped / packed,
    of_ideal = speedup / (tokens with padding per token of text: random / packed).
"""

import json
import statistics
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.smollm2 import SMOLLM2, checkpoint, use_threads
from experiments.benchmarks.step import THREADS, alternate, paired_ratio
from fft import models
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.core.batch import Batch, weighted_sum
from fft.core.network import outputs_of
from fft.core.tree import Params
from fft.data import Columns, Encoded, PackedBatches, TrainBatches, bucket_lengths, load_tokenizer, read_source
from fft.data.batches import collate
from fft.data.sequences import Tokens, encoded, whole
from fft.data.tokenize import encode_plain, end_id
from fft.tasks import Language

LAYERS = 6


def tweets(tokens: int) -> Encoded:
    """Return the tweets that have at most so many tokens, each as a row whose tokens are all predicted."""
    tokenizer, source = load_tokenizer(models.find_folder("demo:smollm2")), "demo:tweets"
    ids = encode_plain(tokenizer, read_source(source, Columns())["train"].texts, source, special=True)
    end = np.int32(end_id(tokenizer))
    texts: list[Tokens] = [whole(np.append(row, end)) for row in ids if 1 <= len(row) <= tokens]
    return encoded([[text] for text in texts], np.array([text.targets for text in texts]), range(len(texts)))


def batches_of(texts: Encoded, count: int, rows: int, tokens: int) -> dict[str, list[Batch]]:
    """Return `count` batches of B rows of every kind."""
    order, lengths = np.random.default_rng(0).permutation(len(texts.ids)), texts.lengths()
    random = [order[at * rows : (at + 1) * rows] for at in range(count)]
    longest = [int(lengths[picked].max()) for picked in random]
    grouped = TrainBatches(texts, rows, 0, bucket_lengths(lengths), 0)
    packed = PackedBatches(texts, rows, 0, tokens, 0)
    return {
        "random": [collate(texts, picked, rows, most, 0, most) for picked, most in zip(random, longest, strict=True)],
        "grouped": [grouped.batch(at) for at in range(count)],
        "packed": [packed.batch(at) for at in range(count)],
    }


def passes(folder: str, batches: dict[str, list[Batch]]) -> dict[str, Callable[[], None]]:
    """Return for each kind a function that computes the gradient on each of its batches."""
    loaded, task = models.load(folder, language=True), Language()

    @jax.jit
    def slope(params: Params, batch: Batch) -> Params:
        def loss(params: Params) -> jax.Array:
            outputs = outputs_of(loaded.model, params, batch, read=(task.reads,))
            return weighted_sum(task.terms(outputs, batch), batch.weight) / jnp.sum(batch.weight)

        return jax.grad(loss)(params)

    def of_all(own: list[Batch]) -> None:
        for batch in own:
            jax.block_until_ready(slope(loaded.params, batch))

    return {kind: partial(of_all, own) for kind, own in batches.items()}


def main(
    rounds: int = 5,
    batches: int = 2,
    layers: int = LAYERS,
    rows: int = 32,
    tokens: int = 128,
    threads: int = THREADS,
) -> None:
    """Measure, print the table and, last, the ratios as JSON."""
    use_threads(threads)
    keep_freed_memory()
    run_programs_in_turn()
    made = batches_of(tweets(tokens), batches, rows, tokens)
    with checkpoint("Llama", "CausalLM", **{**SMOLLM2, "num_hidden_layers": layers}) as folder:
        seconds = alternate(passes(folder, made), rounds, steps=1, warm=1)
    real = {kind: sum(int(batch.mask.sum()) for batch in own) for kind, own in made.items()}
    padded = {kind: sum(batch.mask.size for batch in own) / real[kind] for kind, own in made.items()}
    per_token = {kind: [time / real[kind] for time in times] for kind, times in seconds.items()}
    title = f"SmolLM2-135M's shape, layers: {layers}, B = {rows}, T = {tokens}, {threads} threads"
    table = Table(
        "rows", "tokens a batch", "per token of text", "ms per token", "times packed (quartiles)", title=title
    )
    for kind, times in per_token.items():
        ratio, quartiles = paired_ratio(times, per_token["packed"])
        shapes = ", ".join(str(batch.mask.size) for batch in made[kind])
        median = f"{1e3 * statistics.median(times):.3f}"
        table.add_row(kind, shapes, f"{padded[kind]:.2f}", median, f"{ratio:.3f} {quartiles}")
    Console().print(table)
    speedup = paired_ratio(per_token["random"], per_token["packed"])[0]
    ideal = padded["random"] / padded["packed"]
    figures = {
        "speedup": speedup,
        "ideal": ideal,
        "of_ideal": speedup / ideal,
        "against_grouped": paired_ratio(per_token["grouped"], per_token["packed"])[0],
        "layers": layers,
        "rows": rows,
        "tokens": tokens,
        "threads": threads,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
