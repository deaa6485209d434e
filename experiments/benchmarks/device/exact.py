"""The numbers of the device against float64 on the CPU: training step, fused Fisher pass and attention, leaf by leaf.

The device computes a small Llama in float32, with products in full precision, and in bfloat16. The reference is the
same model in float64 in a process of its own: plain gradients of the loss, with merged adapters for LoRA, and for the
Fisher information squared row by row. All weights are bfloat16 numbers, so that a base in bfloat16 is not rounded.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.device.models import SMALL, TOY, Work, batch_of, model_of, params_of, random_leaves, task_of
from experiments.benchmarks.device.ours import Found
from fft.core.batch import Batch
from fft.core.computation import Computation, Format
from fft.core.tree import Params, flatten, map_leaves, unflatten
from fft.fisher.squares import squares_of
from fft.models.decoder import GroupedAttention
from fft.models.model import Model
from fft.models.rope import table
from fft.training.optim import multipliers
from fft.training.state import init_state
from fft.training.step import make_train_step

LIMITS: dict[Format, float] = {"float32": 1e-5, "bfloat16": 0.05}
"""the largest ‖a − b‖ / ‖b‖ of a leaf that is rounding; on a CPU it is 3e-6 and 4e-2"""
REFERENCE = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
"""the environment of the process that computes in float64"""
Leaves = dict[str, np.ndarray]


def work_of(toy: bool, lora: bool = False) -> Work:
    """Return the small step whose numbers are compared."""
    return Work("exact", "llama", TOY, 3, 12, lora) if toy else Work("exact", "llama", SMALL, 5, 128, lora)


def batch_for(toy: bool) -> Batch:
    """Return rows of different lengths."""
    work = work_of(toy)
    return batch_of(work, np.linspace(work.tokens, work.tokens // 2, work.rows).astype(int))


def exact(toy: bool) -> Found:
    """Yield, by format and operation, the leaf farthest from float64, and whether it is within LIMITS."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, expected = random_inputs(toy), {}
        np.savez(f"{folder}/inputs.npz", **inputs)
        flags = ["--part", "reference", "--folder", folder, *(["--toy"] if toy else [])]
        command = [sys.executable, "-m", "experiments.benchmarks.device", *flags]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **REFERENCE}) as reference:
            for compute, limit in LIMITS.items():
                found = on_device(inputs, toy, compute)
                if reference.wait():
                    raise RuntimeError(f"the reference in float64 ended with {reference.returncode}")
                expected = expected or dict(np.load(f"{folder}/expected.npz"))
                for operation, farthest in compared(found, expected).items():
                    yield f"exact/{compute}/{operation}", {**farthest, "within": farthest["deviation"] <= limit}


def compared(found: Leaves, expected: Leaves) -> dict[str, dict[str, Any]]:
    """Return for every operation the leaf with the largest deviation, that deviation, and the number of leaves."""
    farthest: dict[str, dict[str, Any]] = {}
    for name, values in expected.items():
        operation, leaf = name.split(":")
        share = deviation(found[name], values)
        before = farthest.get(operation, {"deviation": -1.0, "leaves": 0})
        worst = {"deviation": share, "leaf": leaf} if share > before["deviation"] else before
        farthest[operation] = {**worst, "leaves": before["leaves"] + 1}
    return farthest


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Return ‖found − expected‖ / ‖expected‖, infinite if it is not a number."""
    share = np.linalg.norm(np.float64(found) - expected) / np.linalg.norm(expected)
    return float(share) if np.isfinite(share) else float("inf")


def random_inputs(toy: bool) -> Leaves:
    """Return by "kind:path" the parameters, adapters, and for attention its input and the gradient of its output."""
    work = work_of(toy, lora=True)
    params = params_of(work)
    theta = jax.eval_shape(work.method.init, params, jax.random.key(0))
    size = (work.rows, work.tokens, work.fields["hidden_size"])
    kinds = {
        "params": flatten(params),
        "theta": random_leaves({path: leaf.shape for path, leaf in flatten(theta).items()}, seed=1),
        "attention": {name: 10 * leaf for name, leaf in random_leaves({"x": size, "slope": size}, seed=2).items()},
    }
    leaves = {f"{kind}:{path}": leaf for kind, of_kind in kinds.items() for path, leaf in of_kind.items()}
    # Larger than at the start of training, so that scores and adapters matter.
    large = {name: leaf if name.endswith("/scale") else 5 * leaf for name, leaf in leaves.items()}
    return {name: np.asarray(leaf.astype(jnp.bfloat16).astype(jnp.float32)) for name, leaf in large.items()}


def inputs_of(inputs: Leaves, kind: str) -> Params:
    """Return the inputs of one kind as a tree of device arrays, in float64 where that is enabled."""
    own = {name.split(":")[1]: values for name, values in inputs.items() if name.startswith(f"{kind}:")}
    return unflatten({path: jnp.asarray(np.float64(values)) for path, values in own.items()})


def on_device(inputs: Leaves, toy: bool, compute: Format) -> Leaves:
    """Return the gradients, squares and attention by "operation:path" as `fft` computes them in a format."""
    params, theta, batch = inputs_of(inputs, "params"), inputs_of(inputs, "theta"), batch_for(toy)
    full, lora, found = work_of(toy), work_of(toy, lora=True), {}
    model, task = model_of(full, Computation(compute)), task_of(full)
    with jax.default_matmul_precision("highest"):
        for name, work, start in (("full step", full, params), ("lora step", lora, theta)):
            base = params
            if work.lora and compute == "bfloat16":
                base = map_leaves(lambda _, leaf: leaf.astype(jnp.bfloat16) if leaf.ndim == 2 else leaf, base)
            found[name] = step_gradient(model, work, base, start, batch)
        squares = squares_of(model, task, estimator="empirical")
        found["fisher"] = flatten(jax.jit(squares)(params, params, batch, jax.random.key(0)))
        found["attention"] = attention(model, compute, params, inputs_of(inputs, "attention"), batch)
    return named(found)


def named(found: Mapping[str, Mapping[str, Any]]) -> Leaves:
    """Return {"operation:path": array} on the host."""
    return {f"{name}:{path}": np.asarray(leaf) for name, leaves in found.items() for path, leaf in leaves.items()}


def step_gradient(model: Model, work: Work, base: Params, theta: Params, batch: Batch) -> dict[str, jax.Array]:
    """Return the gradient that the compiled training step hands to the optimizer, and "loss"."""
    multiplier = multipliers(work.method, theta, model.depth)
    tx = optax.trace(decay=0.0)  # its state is the gradient
    step = make_train_step(model, task_of(work), work.method, tx, multiplier)
    state = init_state(jax.tree.map(jnp.copy, theta), tx, jax.random.key(0))
    rows = {"new": jax.tree.map(lambda values: jnp.asarray(values)[None], batch)}
    state, metrics = step(state, base, {}, rows)
    return {**flatten(state.opt_state.trace), "loss": metrics["loss"]}


def attention(model: Model, compute: Format, params: Params, given: Params, batch: Batch) -> dict[str, jax.Array]:
    """Return the output of the first layer's attention for x [B, T, D], and the gradients of Σ slope · output."""
    shape = replace(model.config.shape, dtype=compute)
    kind, mask = shape.attention[0], jnp.asarray(batch.mask)
    allowed = jnp.tril(mask[:, None, :] * jnp.ones((mask.shape[1], 1), mask.dtype)) > 0
    rotation = table(kind.rope, model.config.positions(batch.ids, mask))
    module, kernels = GroupedAttention(shape, kind), params["layers"]["0"]["attention"]
    form = jnp.bfloat16 if compute == "bfloat16" else given["x"].dtype

    @jax.jit
    def both(kernels: Params, x: jax.Array) -> tuple[jax.Array, Params]:
        def of(kernels: Params, x: jax.Array) -> jax.Array:
            rows = x.astype(form)
            return module.apply({"params": kernels}, rows, rows, allowed, (rotation, rotation), None)

        out, pull_back = jax.vjp(of, kernels, x)
        slopes, of_x = pull_back((given["slope"] * mask[..., None]).astype(out.dtype))
        return out * mask[..., None], {**slopes, "x": of_x}

    out, slopes = both(kernels, given["x"])
    return {"out": out, **flatten(slopes)}


def reference(folder: Path, toy: bool) -> None:
    """Write the same as `on_device`, in float64, for the inputs in a folder; jax must have float64 enabled."""
    inputs, batch, work = dict(np.load(folder / "inputs.npz")), batch_for(toy), work_of(toy, lora=True)
    params, theta = inputs_of(inputs, "params"), inputs_of(inputs, "theta")
    assert params["final_norm"]["scale"].dtype == jnp.float64
    model = model_of(work, Computation())

    def total(params: Params, batch: Batch) -> jax.Array:
        logits = model.unembed(params, model.states(params, batch, read=("tokens",)).tokens[:, :-1])
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[..., None], axis=-1)[..., 0]
        return jnp.sum(batch.weight * nll)

    def mean(theta: Params, work: Work) -> jax.Array:
        return total(work.method.merge(params, theta), batch) / jnp.sum(batch.weight)

    batch, found = jax.tree.map(jnp.asarray, batch), {}
    full = replace(work, lora=False)
    for name, step, start in (("full step", full, params), ("lora step", work, theta)):
        loss, slopes = jax.jit(jax.value_and_grad(lambda theta, step=step: mean(theta, step)))(start)
        found[name] = {**flatten(slopes), "loss": loss}
    gradient = jax.jit(jax.grad(total))
    rows = [jax.tree.map(lambda values, at=at: values[at : at + 1], batch) for at in range(work.rows)]
    slopes = [flatten(gradient(params, row)) for row in rows]
    found["fisher"] = {path: sum(jnp.square(slope[path]) for slope in slopes) for path in slopes[0]}
    found["attention"] = attention(model, "float32", params, inputs_of(inputs, "attention"), batch)
    np.savez(folder / "expected.npz", **named(found))
