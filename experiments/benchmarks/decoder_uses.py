"""LoRA steps, the fused Fisher pass and generation of SmolLM2-135M's shape: parts of benchmarks.decoder_step.

All take float32 and random weights, and the implementations alternate in one process.

`lora` is a step with the score head on the batch of `full`, r = 16 on all linear layers without dropout: the factored
form of `fft`, which never forms the gradient of a frozen weight, the merged form, and PEFT. Its limit is the time of

    4 · P · B T + 6 · A · B T

operations at the rate of the matrix products that `full` describes, A being the number of the adapters' entries: no
gradient of the frozen kernels, and every product with an adapter once forward and twice backward.

`fisher` is the fused pass of the language model over 4 texts of 128 tokens, squaring the gradient of each text, in
units of the gradient of the batch's mean loss: with the data's next tokens, as the gradient has them, and with tokens
drawn from the model (the estimator `mc`).

`generate` writes 64 tokens after each of 8 prompts of 64 random tokens, greedily, with a cache on both sides, and
compares the tokens with those of transformers' generate.
"""

import statistics
from functools import partial

import jax
import numpy as np
import torch
from rich.table import Table

from experiments.benchmarks.device.models import Work, batch_of, model_of, params_of, task_of
from experiments.benchmarks.device.ours import mean_gradient
from experiments.benchmarks.smollm2 import (
    LABELS,
    SMOLLM2,
    B,
    T,
    add_rows,
    all_products,
    checkpoint,
    fastest,
    kernel_shapes,
    matrices,
    whole_products,
)
from experiments.benchmarks.step import alternate, make_batch, our_step, paired_ratio, torch_step
from fft import models
from fft.core.computation import Computation
from fft.fisher.squares import squares_of
from fft.methods import LoRA
from fft.models.generate import Draw, programs

RANK, ALPHA = 16, 32.0
PROMPTS, PROMPT, NEW = 8, 64, 64
OURS, MERGED = "fft LoRA", "fft LoRA, merged"


def lora(table: Table, rounds: int, steps: int) -> dict[str, float]:
    """Measure LoRA steps, add their rows to the table, and return the figures."""
    batch = make_batch(T, B, LABELS)
    factored, merged = (
        LoRA(rank=RANK, alpha=ALPHA, targets="all-linear", factored=form, merged=not form) for form in (True, False)
    )
    with checkpoint("Llama", **SMOLLM2) as folder:
        contenders = {
            OURS: our_step(factored, batch, folder, LABELS),
            MERGED: our_step(merged, batch, folder, LABELS),
            "PEFT": torch_step(factored, batch, folder, LABELS, fused=True),
            **all_products(),
        }
        seconds = alternate(contenders, rounds, steps, warm=2)
    adapters = RANK * SMOLLM2["num_hidden_layers"] * sum(map(sum, kernel_shapes()))
    products = whole_products(seconds, 4 + 6 * adapters / matrices())
    times = products[fastest(products)]
    limits = {f"LoRA's {name}": limit for name, limit in products.items()}
    add_rows(table, "SmolLM2-135M", {name: seconds[name] for name in (OURS, MERGED, "PEFT")} | limits, "PEFT")
    return {
        "lora_ratio": paired_ratio(seconds[OURS], seconds["PEFT"])[0],
        "lora_of_limit": paired_ratio(times, seconds[OURS])[0],
        "factored_over_merged": paired_ratio(seconds[OURS], seconds[MERGED])[0],
        "lora_seconds": statistics.median(seconds[OURS]),
        "merged_seconds": statistics.median(seconds[MERGED]),
        "peft_seconds": statistics.median(seconds["PEFT"]),
    }


def fisher(table: Table, rounds: int, steps: int) -> dict[str, float]:
    """Measure the Fisher pass and a gradient of the language model, add their rows to the table, return the figures."""
    work = Work("fisher", "llama", SMOLLM2, B, T)
    model, task, params, batch = model_of(work, Computation()), task_of(work), params_of(work), batch_of(work)
    unit = partial(jax.jit(partial(mean_gradient, model, task)), params, batch)
    fused, drawn = (
        partial(jax.jit(squares_of(model, task, estimator=estimator)), params, params, batch, jax.random.key(1))
        for estimator in ("empirical", "mc")
    )
    contenders = {"gradient": unit, "fused Fisher": fused, "fused Fisher, drawn tokens": drawn}
    waiting = {name: lambda take=take: jax.block_until_ready(take()) for name, take in contenders.items()}
    seconds = alternate(waiting, rounds, steps, warm=1)
    add_rows(table, "SmolLM2-135M", seconds, "gradient")
    return {
        "fisher_units": paired_ratio(seconds["fused Fisher"], seconds["gradient"])[0],
        "fisher_drawn_units": paired_ratio(seconds["fused Fisher, drawn tokens"], seconds["gradient"])[0],
        "gradient_seconds": statistics.median(seconds["gradient"]),
    }


def generate(table: Table, rounds: int, steps: int) -> dict[str, float]:
    """Measure generation, add its rows to the table, and return the figures."""
    from transformers import AutoModelForCausalLM

    rng = np.random.default_rng(0)
    ids = rng.integers(1, SMOLLM2["vocab_size"], (PROMPTS, PROMPT)).astype(np.int32)
    with checkpoint("Llama", "CausalLM", **SMOLLM2) as folder:
        one, torchs = models.load_causal(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    torchs.generation_config.eos_token_id = None  # both write all of the tokens
    run, mask, theirs = programs(one.model, False), np.ones_like(ids), torch.tensor(ids).long()
    no_stops = np.array([], np.int32)
    draw = Draw(jax.random.split(jax.random.key(0), PROMPTS), np.float32(1), np.float32(1), no_stops)
    done = np.zeros(PROMPTS, bool)

    def ours() -> np.ndarray:
        begun = run.prefill(one.params, ids, mask, done, draw, new=NEW)
        return np.asarray(run.finish(one.params, begun, draw).answers)

    @torch.inference_mode()
    def of_torch() -> np.ndarray:
        mask = torch.ones_like(theirs)
        return torchs.generate(theirs, attention_mask=mask, max_new_tokens=NEW, do_sample=False).numpy()[:, PROMPT:]

    equal = float(np.mean(ours() == of_torch()))
    seconds = alternate({"fft generate": ours, "transformers generate": of_torch}, rounds, steps, warm=1)
    add_rows(table, "SmolLM2-135M", seconds, "transformers generate")
    return {
        "generate_ratio": paired_ratio(seconds["fft generate"], seconds["transformers generate"])[0],
        "generate_seconds": statistics.median(seconds["fft generate"]),
        "torch_generate_seconds": statistics.median(seconds["transformers generate"]),
        "generate_equal": equal,
    }
