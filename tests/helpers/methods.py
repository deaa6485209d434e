"""What the tests of methods share: a toy model, the chains that every test of all methods runs, steps of a method."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fft.core.tree import flatten
from fft.disk.artefact import load_artefact, save_artefact
from fft.experiment import Optim
from fft.methods import (
    EWC,
    IA3,
    Context,
    Full,
    Sparse,
    StepContext,
    from_json,
    parse_chain,
    to_json,
)
from fft.tasks.classify import Classify
from fft.training.optim import make_optimizer, multipliers, schedule
from fft.training.state import init_state
from fft.training.step import make_train_step
from tests.helpers.toy import LayeredToy, Toy, max_difference, toy_batch, toy_params

MODEL = Toy()


class Subject(NamedTuple):
    """A model that methods are tried on, with heads `original` and `new` of three classes."""

    model: Any
    probed: Any
    """the same for what looks into a model's modules"""
    original: Callable[[], Any]
    """the rows of the original task that `prepare` reads"""
    stream: Callable[[str, int], Any]
    """stream(name, seed): eight rows of a step"""


def stream_batch(stream, seed=0):
    """Eight rows of a stream, the same in every step but those of the new task."""
    rows = toy_batch(seed if stream == "new" else 50, filler=0 if stream == "new" else 2)
    return rows._replace(ids=np.ones((8, 1), np.int32))


TOY = Subject(MODEL, LayeredToy(), lambda: toy_batch(rows=8, filler=3), stream_batch)

CHAINS = [
    "lora+ewc",
    "freeze+layerwise+ewc",
    "layerwise+freeze",
    "full+l2sp",
    "lora+l2sp+freeze",
    "full+wise",
    "lora+ewc+wise",
    "lora+kl+replay",
    "freeze+lwf+distill+ewc",
    "dora+ewc",
    "ia3+ewc",
    "rslora+l2sp",
    "bitfit+layerwise",
    "prompt+ewc+l2sp",
    "prefix+ewc+l2sp",
    "lora+mas",
    "lora+agem+ewc",
    "freeze+ogd+si",
    "freeze+gpm+ewc",
    "lora+unfreeze",
    "sparse+agem",
    "lpft+layerwise+si",
    "lora+ewc+sam",
    "freeze+agem+sam",
    "lora+pseudo+replay",
    "ewc+mixout",
    "recadam+freeze+si",
]


SETTINGS = {"ewc": EWC(way="vmapped"), "sparse": Sparse(way="vmapped"), "ia3": IA3(targets="query")}


def task(name="new", classes=3):
    return Classify(name=name, labels=tuple("abcdefgh"[:classes]))


def context(base, method=None, subject=TOY):
    def outputs(stream, part):
        found = subject.model.apply(base, subject.stream(stream, 0))
        return np.asarray(found["logits"]["original"] if part == "logits" else found["pooled"])

    theta = jax.eval_shape((method or Full()).init, base, jax.random.key(0))
    multiplier = multipliers(method or Full(), theta, subject.model.depth, ("original",))
    batches = {
        "steps": 10,
        "is_trained": lambda path: multiplier.get(path, 0.0) != 0,
        "batches": lambda n, size: [subject.original()],
    }

    def pseudo_rows(stream, source, share, key):
        found = outputs(stream, "logits")
        return SimpleNamespace(ids=np.zeros((len(found), 1), np.int32), logits=found, notes="")

    teacher = SimpleNamespace(outputs=outputs, pseudo_rows=pseudo_rows)
    return Context(subject.probed, base, ("new",), task("original"), **batches, teacher=teacher)


def step_batch(method, seed=0, subject=TOY):
    """What one step of a method reads."""
    streams = ("new", *method.streams)
    return {name: jax.tree.map(lambda x: x[None], subject.stream(name, seed)) for name in streams}


def stepper(method, base, lr=0.05, steps=10, subject=TOY, **optim):
    theta = method.init(base, jax.random.key(1))
    multiplier = multipliers(method, theta, subject.model.depth, ("original",))
    settings = Optim(lr=lr, warmup=0.0, **optim)
    tx = make_optimizer(theta, multiplier, settings, steps)
    aux = method.prepare(context(base, method, subject), jax.random.key(2))
    tasks = task(), task("original")
    step = make_train_step(
        subject.model, tasks[0], method, tx, multiplier, tasks[1], schedule=schedule(settings, steps)
    )
    return step, init_state(theta, method.transform(tx, StepContext(base, aux)), jax.random.key(3)), aux, multiplier


def trained(method, base, steps=3, subject=TOY, **optim):
    step, state, aux, multiplier = stepper(method, base, subject=subject, **optim)
    for i in range(steps):
        state, metrics = step(state, base, aux, step_batch(method, i, subject))
    return state, metrics, multiplier


def check_contract(names, tmp_path):
    """What every method and chain promises, shown on the toy model."""
    method = parse_chain(names, {name: SETTINGS[name] for name in names.split("+") if name in SETTINGS})
    keys = 2 if "prefix" in names.split("+") else 0
    check_promises(method, toy_params(heads={"original": 3, "new": 3}, words=7, keys=keys), tmp_path)


def check_promises(method, base, tmp_path, subject=TOY):
    """What every method promises, on some model and its parameters."""
    before = jax.tree.map(jnp.copy, base)

    assert from_json(to_json(method)) == method
    theta = method.init(base, jax.random.key(1))
    merged = {name: tree for name, tree in method.merge(base, theta).items() if name != "prompt"}
    assert max_difference(merged, base) == 0, "step 0 is the base, beside a prompt"
    assert method.tree.plain == ("prompt" not in method.merge(base, theta))
    assert not {id(x) for x in jax.tree.leaves(theta)} & {id(x) for x in jax.tree.leaves(base)}, "theta is a copy"
    aux = method.prepare(context(base, method, subject), jax.random.key(2))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(aux))
    save_artefact(tmp_path, aux, {})
    assert max_difference(load_artefact(tmp_path)[0], aux) == 0, "prepare gives what a file can hold, scalars too"
    again = method.prepare(context(base, method, subject), jax.random.key(2))
    assert max_difference(aux, again) == 0, "prepare is a function of its key"

    state, metrics, multiplier = trained(method, base, subject=subject)
    assert np.isfinite(float(metrics["loss"])) and np.isfinite(float(metrics["penalty"]))
    assert max_difference(base, before) == 0, "the base is never changed"
    start = flatten(theta)
    for path, leaf in flatten(state.theta).items():
        if multiplier[path] == 0:
            assert bool((leaf == start[path]).all()), f"{path} is frozen"
    finished = method.finish(base, method.merge(base, state.theta))
    finished.pop("prompt", None)
    assert flatten(finished).keys() == flatten(base).keys(), "finish gives plain parameters"
    assert max_difference(finished["heads"]["original"], base["heads"]["original"]) == 0
    assert max_difference(finished["heads"]["new"], base["heads"]["new"]) > 0
