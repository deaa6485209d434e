"""Trains a perceptron on handwritten digits with any method of `fft`, by pure functions only, without files."""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.fisher_digits import CLASSES, TASK, Rows, Split
from fft.core.batch import States
from fft.core.network import outputs_of
from fft.core.tree import Params
from fft.experiment import Optim
from fft.methods import SI, Context, Method, StepContext
from fft.methods.context import NoTeacher
from fft.methods.si import importance_of, path_integral
from fft.models.layers import Dense
from fft.training.optim import make_optimizer, multipliers
from fft.training.state import init_state
from fft.training.step import finished_params, make_train_step

WIDTH, PIXELS, BATCH = 64, 64, 32


class At(nn.Module):
    """A dense layer at the end of a path of names."""

    names: tuple[str, ...]
    width: int

    @nn.compact
    def __call__(self, x):
        name, *rest = self.names
        return At(tuple(rest), self.width, name=name)(x) if rest else Dense(self.width, name=name)(x)


def _dense(params: Params, path: str, width: int, x: jax.Array) -> jax.Array:
    return At(tuple(path.split("/")), width).apply({"params": params}, x)


class Perceptron(NamedTuple):
    """A perceptron: 64 scaled pixels, two hidden layers of tanh, ten classes; parameters are named as in an encoder."""

    depth: int = 2

    def states(
        self, params: Params, batch: Any, *, read: Any = ("pooled",), key: Any = None, layers: Any = ()
    ) -> States:
        """Return the second hidden layer [B, D] for pixels x [B, 64]."""
        x = jnp.asarray(batch.x) * params["embed"]["scale"]
        for i in range(self.depth):
            x = jnp.tanh(_dense(params, f"layers/{i}/mlp/up", WIDTH, x))
        return States(x)

    def readout(self, params: Params, head: str, states: jax.Array, *, key: Any = None) -> jax.Array:
        """Return the logits [B, 10]."""
        return _dense(params, f"heads/{head}/out", CLASSES, states)

    def init(self, key: jax.Array) -> Params:
        """Return random weights of variance 1 / fan-in."""
        keys = jax.random.split(key, self.depth + 1)

        def dense(key, fan_in, fan_out):
            return {"kernel": jax.random.normal(key, (fan_in, fan_out)) / fan_in**0.5, "bias": jnp.zeros(fan_out)}

        layers = {str(i): {"mlp": {"up": dense(keys[i], WIDTH if i else PIXELS, WIDTH)}} for i in range(self.depth)}
        heads = {TASK.name: {"out": dense(keys[-1], WIDTH, CLASSES)}}
        return {"embed": {"scale": jnp.ones(PIXELS)}, "layers": layers, "heads": heads}


MODEL = Perceptron()


class _Teacher(NoTeacher):
    """The base's outputs on all new and original rows."""

    def __init__(self, base: Params, new: Split, original: Split | None) -> None:
        self._base, self._rows = base, {"new": new, "original": original}

    def outputs(self, stream: str, part: str) -> np.ndarray:
        """Return outputs [N, C] or [N, D]."""
        return _outputs(self._base, self._rows[stream])[part]


class Trained(NamedTuple):
    """The result of training: parameters, and for SI the importance of each for all tasks so far."""

    params: Params
    omega: Params | None = None


def train(
    start: Trained, method: Method, new: Split, original: Split | None, lr: float, steps: int, key: jax.Array
) -> Trained:
    """Train on the new rows with the method: AdamW without weight decay, clip 1, linear warm-up and decay."""
    base, (prepare_key, init_key, run_key, data_key) = start.params, jax.random.split(key, 4)
    context = Context(
        MODEL,
        base,
        (),
        TASK,
        partial(_batches, original, data_key),
        {"new": len(new.label)} | ({"original": len(original.label)} if original else {}),
        teacher=_Teacher(base, new, original),
        steps=steps,
    )
    si = next((member for member in method.members if isinstance(member, SI)), None)
    if si is not None:  # `prepare` would read this from a run's folder
        aux = {} if start.omega is None else {"omega": start.omega, "anchor": jax.tree.map(jnp.copy, base)}
    else:
        aux = method.prepare(context, prepare_key)
    shares = {"new": 1.0, **method.streams}
    rows = {"new": new, "original": original}
    batches = {s: _drawn(rows[s], steps, round(BATCH * share), data_key) for s, share in shares.items()}
    state = _program(method, lr, steps)(method.init(base, init_key), base, aux, batches, run_key)
    params = finished_params(method, base, state.theta, ())
    if si is None:
        return Trained(params)
    return Trained(params, importance_of(path_integral(state.opt_state), base, params, si.damping, start.omega))


@cache
def _program(method: Method, lr: float, steps: int):
    """Compile all steps into one program, shared by all seeds and stages."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    theta = jax.eval_shape(method.init, shapes, jax.random.key(0))
    multiplier = multipliers(method, theta, MODEL.depth)
    tx = make_optimizer(theta, multiplier, Optim(lr=lr, weight_decay=0.0), steps)
    step = make_train_step(MODEL, TASK, method, tx, multiplier, TASK)

    @jax.jit
    def run(theta, base, aux, batches, key):
        def take(state, batch):
            return step(state, base, aux, {stream: jax.tree.map(lambda x: x[None], b) for stream, b in batch.items()})

        return jax.lax.scan(take, init_state(theta, method.transform(tx, StepContext(base, aux)), key), batches)[0]

    return run


def _drawn(split: Split, steps: int, size: int, key: jax.Array) -> Rows:
    """Return the batches of all steps, arrays [steps, size, ...]."""
    picked = np.random.default_rng(_seed(key)).integers(0, len(split.label), (steps, size))
    return Rows.of(split, picked.astype(np.int32))


def _batches(split: Split, key: jax.Array, n: int, size: int) -> Iterator[Rows]:
    """Yield at most n rows in batches of `size`; the last one ends in filler rows of weight 0."""
    chosen = np.random.default_rng(_seed(key)).permutation(len(split.label))[:n]
    for at in range(0, len(chosen), size):
        part = chosen[at : at + size]
        weight = (np.arange(size) < len(part)).astype(np.float32)
        yield Rows.of(split, np.resize(part, size).astype(np.int32))._replace(weight=weight)


def _seed(key: jax.Array) -> int:
    return int(jax.random.key_data(key)[-1])


@jax.jit
def _outputs(base: Params, split: Split) -> dict[str, jax.Array]:
    outputs = outputs_of(MODEL, base, split)
    return {"pooled": outputs.pooled, "logits": outputs.read(TASK.name, outputs.pooled)}


def accuracy(params: Params, split: Split) -> float:
    """Return the share of correct rows."""
    return float(jnp.mean(jnp.argmax(_outputs(params, split)["logits"], -1) == split.label))
