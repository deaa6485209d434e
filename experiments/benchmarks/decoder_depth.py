"""What depth costs a training step of a decoder: layers unrolled or stacked, with or without recomputed blocks.

    python -m experiments.benchmarks.decoder_depth [--depths 6 12 24 48] [--rounds 5]

The decoder has the shape of SmolLM2-135M (experiments.benchmarks.smollm2) with other numbers of layers, the batch
is that of the step. `unrolled` is the model of `fft`: every layer is traced and compiled on its own. `stacked` is a
prototype: the step stacks the leaves of all layers, and one layer is compiled as the body of `jax.lax.scan`; the tree
outside the step stays as it is. `remat` computes every block again in the backward pass (`--remat full`).

The table has the seconds to trace and compile, the median seconds of a step, and the peak memory of a process that
loads the model, compiles, and takes the steps. Every cell has a process of its own.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.smollm2 import LABELS, SMOLLM2, B, T, checkpoint, compiled, use_threads
from experiments.benchmarks.step import THREADS, make_batch, our_step
from fft import models
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.core.batch import Batch, Read, States
from fft.core.computation import Computation
from fft.core.tree import Params
from fft.methods import Full
from fft.models.decoder import DecoderBlock, DecoderEmbed
from fft.models.layers import RMSNorm
from fft.models.pooling import last_token
from fft.models.rope import table


def stacked(remat: bool) -> Callable[[models.Checkpoint], models.Checkpoint]:
    """Return a function that replaces the forward pass of a Llama by a scan over its layers."""

    def change(one: models.Checkpoint) -> models.Checkpoint:
        config = one.model.config
        shape = config.shape
        kind = shape.attention[0]

        def states(
            params: Params,
            batch: Batch,
            *,
            read: Collection[Read] = ("pooled",),
            key: jax.Array | None = None,
            layers: tuple[int, ...] = (),
        ) -> States:
            positions = config.positions(batch.ids, batch.mask)
            rotation = table(kind.rope, positions)
            allowed = jnp.tril(jnp.ones((T, T), bool)) & (batch.mask[:, None, :] > 0)

            def body(x: jax.Array, leaves: Params) -> tuple[jax.Array, None]:
                return DecoderBlock(shape, kind).apply({"params": leaves}, x, allowed, rotation, None, None), None

            x = DecoderEmbed(shape).apply({"params": params["embed"]}, batch.ids, positions, None)
            blocks = [params["layers"][str(i)] for i in range(shape.depth)]  # a tree's names are sorted as text
            stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
            x, _ = jax.lax.scan(jax.checkpoint(body) if remat else body, x, stack)
            place = last_token(batch.ids, batch.mask, shape.pad)
            last = jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
            return States(RMSNorm(shape.epsilon, shape.norm_offset).apply({"params": params["final_norm"]}, last))

        return one._replace(model=one.model._replace(states=states))

    return change


WAYS: dict[str, Callable[[models.Checkpoint], models.Checkpoint]] = {
    "unrolled": lambda one: one,
    "unrolled, remat": lambda one: models.computed(one, Computation(remat="full")),
    "stacked": stacked(False),
    "stacked, remat": stacked(True),
}


def cost(way: str, depth: int, rounds: int) -> dict[str, float | str]:
    """Return what the step of a decoder with `depth` layers costs in this process."""
    with checkpoint("Llama", **{**SMOLLM2, "num_hidden_layers": depth}) as folder:
        take = our_step(Full(), make_batch(T, B, LABELS), folder, LABELS, WAYS[way])
    compilation, seconds, losses = compiled(take), [], []
    for _ in range(rounds):
        start = time.perf_counter()
        losses.append(take())
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    step = statistics.median(seconds)
    return {
        "way": way,
        "depth": depth,
        "compile_seconds": compilation,
        "step_seconds": step,
        "peak_mb": peak,
        "loss": losses[-1],
    }


def main(
    depths: tuple[int, ...] = (6, 12, 24, 48),
    rounds: int = 3,
    threads: int = THREADS,
    only: tuple[str, int] | None = None,
) -> None:
    """Measure every way at every depth, print the table and, last, the figures as JSON; `only` measures one here."""
    keep_freed_memory()
    run_programs_in_turn()
    use_threads(threads)
    if only:
        print(json.dumps(cost(*only, rounds)))
        return
    rows = Table("layers", "way", "compile s", "step s", "peak MB", "loss", title="a step of the decoder, D = 576")
    costs = []
    for depth in depths:
        for way in WAYS:
            command = [sys.executable, "-m", "experiments.benchmarks.decoder_depth", "--only", way, str(depth)]
            command += ["--rounds", str(rounds), "--threads", str(threads)]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            one = json.loads(process.stdout.splitlines()[-1])
            costs.append(one)
            numbers = (f"{one['compile_seconds']:.1f}", f"{one['step_seconds']:.2f}", f"{one['peak_mb']:.0f}")
            rows.add_row(str(depth), way, *numbers, f"{one['loss']:.6f}")
    Console(width=110).print(rows)
    print(json.dumps({"costs": costs}))


if __name__ == "__main__":
    tyro.cli(main)
