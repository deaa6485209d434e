"""One optimizer step of `fft` against torch eager: full fine-tuning against transformers, LoRA against PEFT.

    python -m experiments.benchmarks.step [--rounds 15] [--steps 3]

Same MiniLM, same batch (B = 32 rows, T = 48 tokens, float32, padded from lengths of 12 to 48), dropout on,
AdamW with decay on matrices, clip 1, 2 threads. LoRA is r = 8 on query and value with dropout .1 on the adapter's
input, and the classifier is trained as well; `factored` is the form that PEFT uses, and the one compared.

The implementations alternate in one process, with `steps` steps per round after an uncounted one, which absorbs cold
caches and threads still spinning from the previous implementation. The table has the median over rounds and the spread.
A ratio below 1 means that `fft` is faster.

`LoRA products` are the matrix products of a LoRA step with the frozen kernels alone, forward and for the gradient of
the inputs, for 5 of the 6 layers: the last one computes most of its products for one token of each row, and the first
one has no gradient of its inputs. Their time is the least ratio to PEFT that any step with these products reaches.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.products import forward, of_inputs, products
from fft import models
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.core.batch import Batch
from fft.core.tree import Params
from fft.data.demo import minilm_folder
from fft.experiment import Optim
from fft.methods import Full, LoRA, Method
from fft.tasks import Classify, Task
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import init_state
from fft.training.step import make_train_step

B, T, LR, THREADS = 32, 48, 1e-4, 2
RANK, ALPHA, DROP = 8, 16, 0.1
LABELS = ("negative", "positive")
MINILM, PRODUCT_LAYERS = (384, 1536), 5
"""the widths of MiniLM's states and MLP, and the layers whose products are timed alone"""


def make_batch(tokens: int = T, rows: int = B, labels: tuple[str, ...] = LABELS) -> Batch:
    """Return rows of random tokens with lengths from 12 to `tokens`, and random labels; padding has id 0."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(12, tokens + 1, rows)
    mask = (np.arange(tokens)[None] < lengths[:, None]).astype(np.int32)
    ids = (rng.integers(1000, 30000, (rows, tokens)) * mask).astype(np.int32)
    label = rng.integers(0, len(labels), rows).astype(np.int32)
    return Batch(ids, mask, 0 * ids, label, np.ones(rows, np.float32), np.arange(rows, dtype=np.int32))


def our_step(
    method: Method,
    batch: Batch,
    folder: str | Path | None = None,
    labels: tuple[str, ...] = LABELS,
    change: Callable[[models.Checkpoint], models.Checkpoint] = lambda checkpoint: checkpoint,
) -> Callable[[], float]:
    """Return a step of `fft` with a new head, as `fft tune` compiles it; the step returns the loss.

    The checkpoint is that in `folder`, by default MiniLM, after `change`.
    """
    checkpoint = change(models.load(folder or minilm_folder()))
    head = checkpoint.model.init_head(jax.random.key(0), len(labels))
    base = {**checkpoint.params, "heads": {"new": head}}
    return step_on(checkpoint.model, base, Classify("new", labels), method, batch)


def step_on(
    model: models.Model,
    base: Params,
    task: Task,
    method: Method,
    batch: Batch,
    original: Task | None = None,
    aux: Params = MappingProxyType({}),
) -> Callable[[], float]:
    """Return a step of `fft` that learns `task` on a batch from the parameters `base`; the step returns the loss.

    `aux` is what the method's `prepare` would return.
    """
    return partial(step_from(model, base, task, method, original, aux), batch)


def step_from(
    model: models.Model,
    base: Params,
    task: Task,
    method: Method,
    original: Task | None = None,
    aux: Params = MappingProxyType({}),
) -> Callable[[Batch], float]:
    """Return the step of `step_on`, to be called with a batch."""
    theta = method.init(base, jax.random.key(1))
    multiplier = multipliers(method, theta, model.depth)
    tx = make_optimizer(theta, multiplier, Optim(lr=LR), steps=1000)
    step = make_train_step(model, task, method, tx, multiplier, original)
    state = init_state(theta, tx, jax.random.key(2))

    def take(batch: Batch) -> float:
        nonlocal state
        stream = {"new": jax.tree.map(lambda value: value[None], batch)}
        state, metrics = step(state, base, dict(aux), stream)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return take


def torch_step(
    lora: LoRA | None,
    batch: Batch,
    folder: str | Path | None = None,
    labels: tuple[str, ...] = LABELS,
    **adamw: bool,
) -> Callable[[], float]:
    """Return the same step in torch eager, with PEFT's form of `lora` if it is given; the step returns the loss.

    `adamw` goes to torch's optimizer.
    """
    from transformers import AutoModelForSequenceClassification

    source = folder or minilm_folder()
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(labels), attn_implementation="sdpa"
    )
    if lora:
        from peft import LoraConfig, get_peft_model

        targets = lora.targets if lora.targets == "all-linear" else lora.targets.split(",")
        settings = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "target_modules": targets}
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **settings))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    rest = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, **adamw)
    names = {"input_ids": "ids", "attention_mask": "mask", "labels": "targets"}
    if getattr(model.config, "type_vocab_size", 0):
        names["token_type_ids"] = "types"
    inputs = {theirs: torch.tensor(getattr(batch, ours)).long() for theirs, ours in names.items()}

    def take() -> float:
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    return take


def alternate(contenders: dict[str, Callable], rounds: int, steps: int, warm: int = 3) -> dict[str, list[float]]:
    """Return the seconds per step of each function in each round, after `warm` calls of each.

    The order alternates between rounds.
    """
    for take in contenders.values():
        for _ in range(warm):
            take()

    def seconds_per_step(take: Callable) -> float:
        take()
        start = time.perf_counter()
        for _ in range(steps):
            take()
        return (time.perf_counter() - start) / steps

    return in_turn({name: partial(seconds_per_step, take) for name, take in contenders.items()}, rounds)


def in_turn(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each function returns in each round; the order alternates between rounds."""
    results = {name: [] for name in measures}
    for i in range(rounds):
        for name in list(measures)[:: 1 if i % 2 else -1]:
            results[name].append(measures[name]())
    return results


def paired_ratio(times: list[float], reference: list[float]) -> tuple[float, str]:
    """Return the median over rounds of times / reference, and the quartiles as text."""
    ratios = [mine / other for mine, other in zip(times, reference, strict=True)]
    low, _, high = statistics.quantiles(ratios)
    return statistics.median(ratios), f"({low:.3f}-{high:.3f})"


def main(rounds: int = 15, steps: int = 3) -> None:
    """Measure, print the table and, last, the ratios as JSON."""
    keep_freed_memory()
    run_programs_in_turn()
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    batch = make_batch()
    merged, factored = (
        LoRA(rank=RANK, alpha=ALPHA, dropout=DROP, factored=form, merged=not form) for form in (False, True)
    )
    dim, mlp = MINILM
    shapes = [*4 * [(dim, dim)], (dim, mlp), (mlp, dim)]
    seconds = alternate(
        {
            "fft full": our_step(Full(), batch),
            "transformers": torch_step(None, batch),
            "fft LoRA merged": our_step(merged, batch),
            "fft LoRA factored": our_step(factored, batch),
            "PEFT": torch_step(factored, batch),
            "LoRA products": products("jax", shapes, B * T, PRODUCT_LAYERS, (forward, of_inputs)),
        },
        rounds,
        steps,
    )
    table = Table("step", "median ms", "min-max ms", "of torch (quartiles over rounds)")
    ratios = {}
    for name, times in seconds.items():
        against = "PEFT" if "LoRA" in name or name == "PEFT" else "transformers"
        ratios[name], quartiles = paired_ratio(times, seconds[against])
        spread = f"{1e3 * min(times):.0f}-{1e3 * max(times):.0f}"
        table.add_row(name, f"{1e3 * statistics.median(times):.0f}", spread, f"{ratios[name]:.3f} {quartiles}")
    Console(width=100).print(table)
    figures = {"full_ratio": "fft full", "lora_ratio": "fft LoRA factored", "lora_least": "LoRA products"}
    print(json.dumps({figure: ratios[name] for figure, name in figures.items()}))


if __name__ == "__main__":
    tyro.cli(main)
