"""The Python way in: `fft.tune` starts or resumes a run, `fft.restore` gives a notebook its model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fft import models
from fft.checkpoint import Checkpoints
from fft.errors import InputError
from fft.experiment import Data, Experiment, Optim, Retention, Texts, from_json
from fft.heads import fresh_heads, load_heads
from fft.job import base_sha256, make_trainable
from fft.methods import Method, parse_chain
from fft.record import read_object
from fft.run import Run, run
from fft.train import TrainState, finished_params


def tune(
    model: str | Path,
    new: str | Data,
    original: str | Data | None = None,
    method: str | Method = "full",
    *,
    out: str | Path,
    head: str = Experiment.head,
    original_head: str | None = Experiment.original_head,
    max_length: int | None = Experiment.max_length,
    seed: int = Experiment.seed,
    unlabelled: str | Texts | None = None,
    emit: Callable[[dict], None] = lambda event: None,
    **settings: Any,
) -> Run:
    """`fft tune` as a function. Sources may be strings; `settings` are fields of Optim and of Retention.

    Example: `fft.tune("base/", "new.csv", "old.csv", fft.LoRA(rank=16) + fft.EWC(), out="runs/1", epochs=1, lr=1e-3)`

    Errors: as `run`; InputError for a setting that neither Optim nor Retention has.
    """
    parts = {}
    for kind in (Optim, Retention):
        names = [f.name for f in dataclasses.fields(kind)]
        parts[kind] = kind(**{name: settings.pop(name) for name in names if name in settings})
    if settings:
        raise InputError(f"unknown settings {', '.join(settings)}; they are fields of fft.Optim and fft.Retention")
    experiment = Experiment(
        str(model),
        new if isinstance(new, Data) else Data(str(new)),
        original if isinstance(original, Data | None) else Data(str(original)),
        parse_chain(method) if isinstance(method, str) else method,
        parts[Optim],
        parts[Retention],
        head,
        original_head,
        max_length,
        seed,
        unlabelled if isinstance(unlabelled, Texts | None) else Texts(unlabelled),
    )
    return run(experiment, out, emit)


def restore(directory: str | Path, which: str | None = None) -> models.Checkpoint:
    """The model of a run's "best" or "latest" step: (model, params, heads, primary, folder, raw_config).

    Without `which` it is the step the run itself keeps, that of RUN/model (Retention.keep).

    No data are read; the base checkpoint must still be where the experiment says, because steps hold only what was
    trained. A run that is still going may be read.

    Errors: InputError for a folder that is no run, or in which no good step is left.
    """
    found = restored(directory, which)
    return found.checkpoint._replace(params=found.params)


class Restored(NamedTuple):
    """A run's experiment, its base with every head, a saved step of it, and the parameters that this stands for."""

    experiment: Experiment
    checkpoint: models.Checkpoint
    state: TrainState
    params: dict


def restored(directory: str | Path, which: str | None = None) -> Restored:
    """What `restore` gives, with the whole state behind it."""
    directory = Path(directory)
    path = directory / "experiment.json"
    experiment = from_json(read_object(path), where=str(path))
    base = models.load(experiment.model)
    if base_sha256(base) != read_object(directory / "identity.json")["base_sha256"]:
        raise InputError(f"{experiment.model} holds other weights than those that {directory} was trained from")
    checkpoint = load_heads(base, directory / "heads")
    trainable = make_trainable(experiment, checkpoint, {}, 1)
    checkpoints = Checkpoints(directory / "checkpoints")
    which = which or experiment.retention.keep
    step = None if which == "latest" else checkpoints.read_extra()[1]["best"]
    state = checkpoints.restore(jax.eval_shape(trainable.init), step).tree
    fresh = fresh_heads(directory / "heads")
    params = finished_params(experiment.method, checkpoint.params, state.theta, fresh)
    return Restored(experiment, checkpoint, state, params)


def kept_base(directory: str | Path, which: str | None = None) -> bool:
    """Whether the step that `restore` gives is step 0, the base itself with a fresh head."""
    checkpoints = Checkpoints(Path(directory) / "checkpoints")
    which = which or from_json(read_object(Path(directory) / "experiment.json")).retention.keep
    step, extra = checkpoints.read_extra()
    return (step if which == "latest" else extra["best"]) == 0


def model_folder(folder: str) -> str:
    """The checkpoint that a path names: a finished run's model/, else the path itself.

    Errors: InputError for a run that is not finished.
    """
    if (Path(folder) / "run.json").is_file():
        return str(Path(folder) / "model")
    if (Path(folder) / "experiment.json").is_file():
        raise InputError(
            f"the run {folder} is not finished: go on with `fft tune` and the same --out, or write what it has with "
            f"`fft export {folder} --out DIR`"
        )
    return folder
