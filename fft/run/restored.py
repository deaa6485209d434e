"""What a run left, read back: its model, its adapter, its whole state. No data are read."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax

from fft import models
from fft.adapters import check_writable
from fft.adapters.adapter import Adapter, trained_adapter
from fft.core.brief import brief
from fft.core.errors import InputError
from fft.core.settings import validated
from fft.core.tree import Params, without_heads
from fft.data import length_of
from fft.disk.artefact import load_artefact
from fft.disk.checkpoint import Checkpoints
from fft.disk.files import read_object
from fft.disk.folder import ADAPTER, CHECKPOINTS, EXPERIMENT, LEFT, MODEL
from fft.disk.local import local
from fft.experiment import Experiment, from_json
from fft.merging.formulas import interpolate
from fft.models.files.folders import CONFIG, instead_of_checkpoint
from fft.models.files.heads import stored_length
from fft.models.identity import base_sha256
from fft.run.heads import fresh_heads, load_heads
from fft.training.state import result_field
from fft.training.step import finished_params
from fft.training.trainable import Trainable, make_trainable, trained_leaves


def restore(directory: str | Path, which: str | None = None) -> models.Checkpoint:
    """The model of a run's "best" or "latest" step: (model, params, heads, primary, folder, raw_config, …).

    Without `which` it is what the run itself keeps, as RUN/model: the step of Retention.keep, or under a contract the
    point that was chosen.

    No data are read; the base checkpoint must still be where the experiment says, because steps hold only what was
    trained. A run that is still going may be read.

    Raises: InputError for a folder that is no run, or in which no good step is left.
    """
    found = restored(directory, which)
    return found.checkpoint._replace(params=found.params)


class Restored(NamedTuple):
    """A run's experiment, its base with every head, a saved step of it, and the parameters that this stands for."""

    experiment: Experiment
    checkpoint: models.Checkpoint
    theta: Params
    params: Params
    left: partial[Params]
    """reads what the run's method left for later ones (Parts.leave) at the step that the run keeps"""
    __repr__ = brief


def restored(directory: str | Path, which: str | None = None) -> Restored:
    """What `restore` gives, with the trained tree behind it."""
    directory = Path(local(directory, "the run"))
    kept = _kept(directory, which)
    experiment, base, theta = _trained(directory, kept.step)
    left = partial(_left, directory, experiment, base)
    if kept.is_base:
        return Restored(experiment, base, theta, base.params, left)
    fresh = fresh_heads(directory / "heads")
    params = finished_params(experiment.method, base.params, theta, fresh)
    if kept.alpha != 1:
        params = interpolate(without_heads(base.params, fresh), params, kept.alpha)
    return Restored(experiment, base, theta, params, left)


def _left(directory: Path, experiment: Experiment, base: models.Checkpoint) -> Params:
    """What the method left; of a run that is older than the folder of it, out of the whole state at the kept step."""
    if (directory / LEFT).is_dir():
        return load_artefact(directory / LEFT)[0]
    kept, trainable = _kept(directory, None), trainable_of(experiment, base)
    if kept.is_base:
        return experiment.method.leave(trainable.init().opt_state)
    saved = Checkpoints(directory / CHECKPOINTS).restore(jax.eval_shape(trainable.init), kept.step)
    return experiment.method.leave(saved.tree.opt_state)


def trainable_of(experiment: Experiment, base: models.Checkpoint) -> Trainable:
    """The trainable tree of a run, for the shapes of what it saved."""
    watched = len(experiment.budgets)
    return make_trainable(experiment.method, experiment.optim, base, {}, 1, experiment.seed, watched)


def adapter_of(directory: str | Path, which: str | None = None) -> tuple[models.Checkpoint, Adapter, str]:
    """What a run trained as an adapter: (its base, the Adapter, what the experiment calls the base's source).

    Raises: as `restore`; InputError for a method that PEFT has no format for, and where it changes the merged weights
    at its end, because then they are not the base with its adapter any more.
    """
    directory = Path(local(directory, "the run"))
    kept = _kept(directory, which)
    experiment, base, theta = _trained(directory, kept.step)
    check_writable(experiment.method.owner, base.model.family)
    if kept.is_base and (kept.alpha != 1 or not experiment.method.tree.plain):
        raise InputError(f"{directory} kept the base, step 0: there is no trained adapter. --step latest may have one")
    if kept.alpha != 1:
        raise InputError(
            f"{directory} keeps a point {kept.alpha:g} of the way from the base to its last step, which is not the "
            "base and an adapter any more; export the whole model with --to hf, or name a --step"
        )
    return base, trained_adapter(experiment.method, base, theta), experiment.model


def _trained(directory: Path, step: int | None) -> tuple[Experiment, models.Checkpoint, Params]:
    """(experiment, the base with every head the run used, the trained tree at the step, None for the latest)."""
    path = directory / "experiment.json"
    experiment = from_json(read_object(path), where=str(path))
    loaded = models.load(experiment.model)
    base = loaded._replace(max_length=length_of(experiment.max_length, loaded.model.config))
    if base_sha256(base) != read_object(directory / "identity.json")["base_sha256"]:
        raise InputError(f"{experiment.model} holds other weights than those that {directory} was trained from")
    checkpoint = load_heads(base, directory / "heads")
    like = {result_field(bool(experiment.budgets)): trained_leaves(experiment.method, checkpoint)[0]}
    saved = Checkpoints(directory / CHECKPOINTS).restore(like, step, part=True)
    return experiment, checkpoint, next(iter(saved.tree.values()))


class Kept(NamedTuple):
    """What a run's model is, or a step of it."""

    step: int | None
    """None: the latest good one"""
    alpha: float
    """how far from the base to the step"""
    is_base: bool
    """whether it is the base itself, with a fresh head"""


def _kept(directory: Path, which: str | None) -> Kept:
    """What `which` names, None: the run's model. Under a contract that was not met the base's own step may be gone."""
    done, checkpoints = directory / "run.json", Checkpoints(directory / CHECKPOINTS)
    contract = read_object(done).get("contract") if which is None and done.exists() else None
    if contract is not None:
        step = contract["kept"]["step"] or None
        return Kept(step, contract["kept"]["alpha"], step is None)
    which = which or from_json(read_object(directory / "experiment.json")).retention.keep
    latest, extra = checkpoints.read_extra()
    if which == "latest":
        return Kept(None, 1.0, latest == 0)
    return Kept(extra["best"], 1.0, extra["best"] == 0)


def kept_base(directory: str | Path, which: str | None = None) -> bool:
    """Whether the step that `restore` gives is step 0, the base itself with a fresh head."""
    return _kept(Path(local(directory, "the run")), which).is_base


def load_model(source: str) -> models.Checkpoint:
    """The model that a path names: what a finished run has kept, else the checkpoint in a folder or of hf:NAME."""
    source = local(source, "the model", hub=True)
    if (Path(source) / "run.json").is_file() and (Path(source) / ADAPTER).is_dir():
        return restore(source)
    return load_checkpoint(source)


def load_checkpoint(source: str) -> models.Checkpoint:
    """The checkpoint that a path names, as `model_folder`, with the length that a run was trained at.

    Raises: as `model_folder` and `fft.models.load`.
    """
    checkpoint = models.load(model_folder(source))
    if not (Path(source) / EXPERIMENT).is_file():
        return checkpoint
    return checkpoint._replace(max_length=length_of(_asked_length(Path(source)), checkpoint.model.config))


def _asked_length(run: Path) -> int | None:
    """The max_length of a run's experiment."""
    told = run / EXPERIMENT
    return validated(int | None, read_object(told).get("max_length"), f"{told}.max_length")


class Length(NamedTuple):
    """The tokens that a longer text is cut to, what is to be said of that, and whether somebody asked for them, or a
    model was trained so, rather than nobody having said anything.
    """

    tokens: int
    notes: tuple[str, ...]
    known: bool


def scored_length(asked: int | None, checkpoints: Mapping[str, models.Checkpoint]) -> Length:
    """The length that texts are cut to where nothing is trained, of checkpoints by what they are called: what was asked
    for, else the length that they were trained at, else that of `fft.data.length_of`.

    Raises: InputError where two were trained at different lengths and none was asked for.
    """
    default = length_of(asked, next(iter(checkpoints.values())).model.config)
    trained = {name: one.max_length for name, one in checkpoints.items() if one.max_length is not None}
    if asked is not None or not trained:
        return Length(default, (), asked is not None)
    if len(set(trained.values())) > 1:
        told = ", ".join(f"{name} to {length}" for name, length in trained.items())
        raise InputError(
            f"texts were cut to different lengths in training: {told} tokens. Give one length for all with --max-length"
        )
    length = next(iter(trained.values()))
    said = f"texts are cut to {length} tokens, as in the training of {' and '.join(trained)}; --max-length changes that"
    return Length(length, () if length == default else (said,), True)


def tokenizer_folder(source: str) -> tuple[Path, int | None]:
    """The folder whose tokenizer reads texts for a checkpoint or a run, and the length it was trained at, if known.

    Raises: as `model_folder`, and InputError for a folder of something else; no weights are read.
    """
    source = local(source, "the model", hub=True)
    folder = Path(model_folder(source))
    if not (folder / CONFIG).is_file() and (told := instead_of_checkpoint(folder)):
        raise InputError(told)
    is_run = (Path(source) / EXPERIMENT).is_file()
    return folder, stored_length(folder) or (_asked_length(Path(source)) if is_run else None)


def model_folder(folder: str) -> str:
    """The checkpoint that a path names: a finished run's model/, else the path itself.

    Raises: InputError for a run that is not finished, and for one whose model is not a checkpoint.
    """
    folder = local(folder, "the model", hub=True)
    if (Path(folder) / "run.json").is_file():
        if (Path(folder) / ADAPTER).is_dir():
            raise InputError(
                f"the run {folder} keeps its model as base and adapter, in {ADAPTER}/, because no checkpoint holds it; "
                "this command needs a checkpoint"
            )
        return str(Path(folder) / MODEL)
    if (Path(folder) / "experiment.json").is_file():
        raise InputError(
            f"the run {folder} is not finished: go on with `fft tune` and the same --out, or write what it has with "
            f"`fft export {folder} --out DIR`"
        )
    return folder
