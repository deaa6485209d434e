"""The steps of the device check by `fft`: training steps, and the fused Fisher pass in units of a gradient."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.device.models import GROUPS, Work, batch_of, model_of, params_of, task_of, work_of
from experiments.benchmarks.device.rates import FORMULA, TERA, measured, peak_of
from fft.core.batch import Batch, weighted_sum
from fft.core.computation import Computation
from fft.core.network import Network, outputs_of
from fft.core.tree import Params
from fft.disk.environment import installed_version
from fft.experiment import Optim
from fft.fisher.squares import squares_of
from fft.tasks import Task
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import init_state
from fft.training.step import make_train_step

Found = Iterator[tuple[str, Any]]
"""(the place in the record, "/" between names; what was measured)"""
TOY_MEMORY = 5_000_000
"""the memory of a device that does not tell: so little that the longer of a toy's works is computed with remat"""


def refuse_cpu(toy: bool) -> None:
    """End the process where jax sees no accelerator, unless for a toy."""
    if not toy and jax.devices()[0].platform == "cpu":
        sys.exit("jax sees no GPU or TPU: run the check on one, or with --toy, which takes tiny models")


def device(toy: bool) -> Found:
    """Yield the device, its software, and the speed of one bfloat16 product of square matrices."""
    found, size = jax.devices()[0], 64 if toy else 8192
    square = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    seconds = statistics.median(seconds_of(lambda: product(square, square), 10, warm=3))
    peak = peak_of(found.device_kind)
    yield (
        "device",
        {
            "kind": found.device_kind,
            "platform": found.platform,
            "bytes_limit": (found.memory_stats() or {}).get("bytes_limit"),
            "peak_tflops": None if peak is None else peak / TERA,
            "operations_of_a_step": FORMULA,
            "product_tflops": 2 * size**3 / seconds / TERA,
            "versions": {name: installed_version(name) for name in ("jax", "jaxlib", "flax", "torch", "transformers")},
        },
    )


def seconds_of(take: Callable[[], object], calls: int, warm: int = 1) -> list[float]:
    """Return the seconds of each of some calls, after `warm` ones; every call ends when the device has finished."""
    seconds = []
    for _ in range(warm + calls):
        start = time.perf_counter()
        jax.block_until_ready(take())
        seconds.append(time.perf_counter() - start)
    return seconds[warm:]


def steps(group: str, toy: bool) -> Found:
    """Yield the speed and the memory of the training steps of one of GROUPS."""
    for name in GROUPS[group]:
        yield f"steps/{name}/fft", fitting_step(work_of(name, toy), toy)
        gc.collect()


def fitting_step(work: Work, toy: bool) -> dict[str, Any]:
    """Return `measured_step` with remat where `remat_of` says so, or where the device runs out of memory without."""
    try:
        return measured_step(work, remat_of(work), toy)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
    gc.collect()  # the arrays of the first try, which the error held
    return measured_step(work, "full", toy)


def remat_of(work: Work) -> str:
    """Return "full" where twice the attention weights that a backward pass reads exceed the device's memory.

    These are B H T² weights a layer, in float32 for softmax and in bfloat16 for the product.
    """
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", TOY_MEMORY)
    layers, heads = (work.fields[name] for name in ("num_hidden_layers", "num_attention_heads"))
    return "full" if 2 * 6 * layers * work.rows * heads * work.tokens**2 > limit else "none"


def measured_step(work: Work, remat: str, toy: bool) -> dict[str, Any]:
    """Return the speed of one training step, its seconds to compile and the peak memory of the process so far."""
    take = training_step(work, remat)
    (compiled,) = seconds_of(take, 1, warm=0)
    seconds = statistics.median(seconds_of(take, 2 if toy else 8))
    found = jax.devices()[0]
    return {
        **measured(work, seconds, found.device_kind),
        "peak_bytes": (found.memory_stats() or {}).get("peak_bytes_in_use"),
        "compile_seconds": compiled - seconds,
        "remat": remat,
        "loss": float(take()),
    }


def training_step(work: Work, remat: str) -> Callable[[], jax.Array]:
    """Return a training step in bfloat16 as `fft tune` compiles it, with AdamW and clipping; it returns the loss."""
    model = model_of(work, Computation("bfloat16", remat=remat))
    base = params_of(work, rounded=work.lora)
    theta = work.method.init(base, jax.random.key(0))
    multiplier = multipliers(work.method, theta, model.depth)
    tx = make_optimizer(theta, multiplier, Optim(lr=1e-5), steps=1000)
    step = make_train_step(model, task_of(work), work.method, tx, multiplier)
    state = init_state(theta, tx, jax.random.key(0))
    rows = {"new": jax.tree.map(lambda values: jnp.asarray(values)[None], batch_of(work))}

    def take() -> jax.Array:
        nonlocal state
        state, metrics = step(state, base, {}, rows)
        jax.block_until_ready(state)
        return metrics["loss"]

    return take


def fisher(toy: bool) -> Found:
    """Yield the seconds of the fused Fisher pass over a batch, and its time in units of the batch's mean gradient.

    The pass is in float32, as always in `fft`; the gradient in float32 and, as in a step in bfloat16, in that.
    """
    work, calls = work_of("fisher-2048", toy), 2 if toy else 5
    task, params, batch = task_of(work), params_of(work), jax.tree.map(jnp.asarray, batch_of(work))
    squares = jax.jit(squares_of(model_of(work, Computation()), task, estimator="empirical"))
    key = jax.random.key(0)
    fused = statistics.median(seconds_of(lambda: squares(params, params, batch, key), calls))
    yield "fisher/seconds", fused
    for compute in ("float32", "bfloat16"):
        unit = jax.jit(partial(mean_gradient, model_of(work, Computation(compute)), task))
        seconds = statistics.median(seconds_of(partial(unit, params, batch), calls))
        yield f"fisher/gradient_in_{compute}", {"seconds": seconds, "units": fused / seconds}


def mean_gradient(model: Network, task: Task, params: Params, batch: Batch) -> Params:
    """Return the gradient of a batch's mean loss."""

    def loss(params: Params) -> jax.Array:
        terms = task.terms(outputs_of(model, params, batch, read=(task.reads,)), batch)
        return weighted_sum(terms, batch.weight) / jnp.sum(batch.weight)

    return jax.grad(loss)(params)
