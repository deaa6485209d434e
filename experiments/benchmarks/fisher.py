"""The time of the diagonal Fisher of one batch by several implementations, relative to one gradient of that batch.

    python -m experiments.benchmarks.fisher [--rounds 7] [--steps 2]

Also the cost per row by batch size and by tokens, drawn to experiments/results/fisher_cost.{svg,png}, and the command
`fft fisher` over 2,048 movie snippets, including imports, reading, tokenizing, compiling (without a cache) and writing.

MiniLM with a head of two classes, B = 32 rows, T = 40 tokens with padding, float32, dropout off, labels of the data,
2 threads. The implementations alternate in one process; peak memory is measured in separate processes, minus the memory
before the first pass. `torch.func` is vmap(grad) over the batch, `loop` the gradient of each row in turn in torch, and
`batched` the squared gradient of the batch: as cheap as a gradient, but not the Fisher.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.step import LABELS, THREADS, B, alternate, make_batch, paired_ratio
from fft import models
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.core.network import outputs_of
from fft.core.tree import flatten
from fft.data.demo import minilm_folder
from fft.fisher.squares import squares_of
from fft.tasks import Classify

T, CHUNKS = 40, (1, 4)
ROWS, TOKENS, FEW = (1, 2, 4, 8, 16, 32, 64, 128), (16, 32, 64, 128, 256), 8
SAMPLES = 2048
PICTURE = Path(__file__).parents[1] / "results" / "fisher_cost"


def program(way: str, chunk: int = 1, rows: int = B, tokens: int = T) -> tuple[Any, tuple]:
    """Return a jitted Σ_b g_b² of a batch with the data's labels, for `unit` the ordinary gradient, and its inputs."""
    checkpoint = models.load(minilm_folder())
    head = checkpoint.model.init_head(jax.random.key(0), len(LABELS))
    params, task = {**checkpoint.params, "heads": {"new": head}}, Classify("new", LABELS)
    batch, key = make_batch(tokens, rows), jax.random.key(1)

    def unit(params, batch):
        return jax.grad(lambda p: jnp.sum(task.terms(outputs_of(checkpoint.model, p, batch), batch)))(params)

    if way == "unit":
        return jax.jit(unit), (params, batch)
    squares = jax.jit(squares_of(checkpoint.model, task, estimator="empirical", way=way, chunk=chunk))
    return squares, (params, params, batch, key)


def ours(way: str, chunk: int = 1, rows: int = B, tokens: int = T) -> Callable[[], dict]:
    """Return a function that runs a `program` and returns its result by path."""
    run, inputs = program(way, chunk, rows, tokens)
    return lambda: flatten(jax.block_until_ready(run(*inputs)))


def program_bytes(way: str) -> int:
    """Return the bytes of the results and temporary buffers of a compiled program."""
    run, inputs = program(way)
    memory = run.lower(*inputs).compile().memory_analysis()
    return memory.output_size_in_bytes + memory.temp_size_in_bytes


def theirs(way: str) -> Callable[[], object]:
    """Return the same in torch: vmap(grad), the loop over rows, or the squared gradient of the batch's mean."""
    from transformers import AutoModelForSequenceClassification

    options = {"num_labels": len(LABELS), "attn_implementation": "eager"}
    model = AutoModelForSequenceClassification.from_pretrained(minilm_folder(), **options).eval()
    names = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}
    batch = make_batch(T)
    inputs = {name: torch.tensor(getattr(batch, ours)).long() for name, ours in names.items()}
    labels = torch.tensor(batch.targets).long()
    if way == "torch.func":  # vmap rejects the data-dependent branch in the mask of transformers
        hidden = (1 - torch.tensor(batch.mask).float())[:, None, None] * torch.finfo(torch.float32).min
        inputs["attention_mask"] = hidden.expand(-1, 1, T, T)
    params = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def nll(params, inputs, label):
        row = {name: value[None] for name, value in inputs.items()}
        logits = torch.func.functional_call(model, params, (), row).logits
        return torch.nn.functional.cross_entropy(logits, label[None])

    def vmapped():
        per_row = torch.func.vmap(torch.func.grad(nll), in_dims=(None, 0, 0))(params, inputs, labels)
        return {name: gradient.square().sum(0) for name, gradient in per_row.items()}

    def looped(rows: int):
        total = {name: torch.zeros_like(value) for name, value in params.items()}
        for start in range(0, len(labels), rows):
            model.zero_grad()
            picked = {name: value[start : start + rows] for name, value in inputs.items()}
            model(**picked, labels=labels[start : start + rows]).loss.backward()
            for name, parameter in model.named_parameters():
                total[name] += parameter.grad.square()
        return total

    return {"torch.func": vmapped, "loop": lambda: looped(1), "batched": lambda: looped(len(labels))}[way]


CONTENDERS = {
    "unit": lambda: ours("unit"),
    "fused": lambda: ours("fused"),
    **{f"vmapped, chunk {chunk}": lambda chunk=chunk: ours("vmapped", chunk) for chunk in CHUNKS},
    "torch.func": lambda: theirs("torch.func"),
    "loop": lambda: theirs("loop"),
    "batched": lambda: theirs("batched"),
}


def peak(name: str) -> float:
    """Return the MB that three passes of an implementation add to a fresh process."""
    command = [sys.executable, "-m", "experiments.benchmarks.fisher", "--only", name]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(process.stdout.splitlines()[-1])


def costs(rounds: int) -> list[dict]:
    """Return milliseconds per row of the fused pass and of a gradient, by batch size (ROWS) and by tokens (TOKENS)."""
    measured = []
    shapes = [("rows of a batch (T = 40)", rows, rows, T) for rows in ROWS]
    shapes += [(f"tokens of a row (B = {FEW})", tokens, FEW, tokens) for tokens in TOKENS]
    for panel, at, rows, tokens in shapes:
        pair = {way: ours(way, rows=rows, tokens=tokens) for way in ("unit", "fused")}
        for way, seconds in alternate(pair, rounds, max(1, 32 // rows)).items():
            label = {"unit": "gradient", "fused": "Fisher, fused"}[way]
            cost = 1e3 * statistics.median(seconds) / rows
            measured.append({"panel": panel, "at": at, "way": label, "cost": cost})
    return measured


def draw_costs(measured: list[dict]) -> None:
    """Draw two panels: milliseconds per row by batch size, and by tokens."""
    import altair as alt

    from fft.report.drawing import save, styled, svg

    def panel(name):
        rows = [row for row in measured if row["panel"] == name]
        return (
            alt.Chart(alt.Data(values=rows), width=300, height=240)
            .mark_line(point=True)
            .encode(
                x=alt.X("at:Q", scale=alt.Scale(type="log", base=2), title=name),
                y=alt.Y("cost:Q", title="ms a row", scale=alt.Scale(domainMin=0)),
                color=alt.Color("way:N", title="pass"),
                shape=alt.Shape("way:N", title="pass"),
            )
        )

    panels = [panel(name) for name in dict.fromkeys(row["panel"] for row in measured)]
    chart = alt.hconcat(*panels).properties(title="MiniLM, float32, 2 threads: the cost of a row")
    save(svg(styled(chart)), PICTURE)


def command_seconds() -> float:
    """Return the wall seconds of an `fft fisher` process over SAMPLES movie snippets, including compilation."""
    from experiments.base import short_movie_base
    from fft.commands.demo import ORIGINAL

    base = short_movie_base(Console(stderr=True))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fft", "fisher", "--model", str(base), "--original", ORIGINAL]
        command += ["--samples", str(SAMPLES), "--out", f"{folder}/fisher"]
        environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return time.monotonic() - start


def main(rounds: int = 7, steps: int = 2, only: str | None = None) -> None:
    """Measure, print the table and, last, the figures as JSON; `only` prints the peak memory of one implementation."""
    keep_freed_memory()
    run_programs_in_turn()
    torch.set_num_threads(THREADS)
    if only:
        take = CONTENDERS[only]()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            take()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        return
    memory = {name: peak(name) for name in CONTENDERS}
    passes = {name: make() for name, make in CONTENDERS.items()}
    reference, fused = (passes[name]() for name in ("vmapped, chunk 1", "fused"))
    worst = max(
        (float(jnp.linalg.norm(fused[path] - leaf) / jnp.linalg.norm(leaf)), path)
        for path, leaf in reference.items()
        if not path.endswith("attention/key/bias")
    )
    seconds = alternate(passes, rounds, steps)
    table = Table("way", "median ms", "min-max ms", "units (quartiles over rounds)", "MB added", "of a gradient's")
    units = {}
    for name, times in seconds.items():
        units[name], quartiles = paired_ratio(times, seconds["unit"])
        table.add_row(
            name,
            f"{1e3 * statistics.median(times):.0f}",
            f"{1e3 * min(times):.0f}-{1e3 * max(times):.0f}",
            f"{units[name]:.3f} {quartiles}",
            f"{memory[name]:.0f}",
            f"{memory[name] / memory['unit']:.2f}",
        )
    Console(width=110).print(table)
    print(f"fused against vmapped, worst leaf: {worst[0]:.1e} ({worst[1]})")
    measured = costs(rounds)
    draw_costs(measured)
    for row in measured:
        print(f"{row['panel']}: {row['at']}: {row['way']} {row['cost']:.2f} ms a row")
    command = [command_seconds() for _ in range(3)]
    print("fft fisher, seconds:", ", ".join(f"{seconds:.1f}" for seconds in command))
    batches = SAMPLES / B
    figures = {
        "fused_time": units["fused"],
        "fused_memory": memory["fused"] / memory["unit"],
        "fused_program_memory": program_bytes("fused") / program_bytes("unit"),
        "vmapped_time": min(units[f"vmapped, chunk {chunk}"] for chunk in CHUNKS),
        "torch_func_time": units["torch.func"],
        "loop_time": units["loop"],
        "command_units": statistics.median(command) / statistics.median(seconds["unit"]) / batches,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
