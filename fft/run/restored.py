"""Load a run's results from its folder: the model, the adapter, the saved state. No data are read."""

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
from fft.core.tree import Params, flatten, without_heads
from fft.data import length_of
from fft.data.settings import predicts_tokens
from fft.disk.artefact import load_artefact
from fft.disk.checkpoint import Checkpoints
from fft.disk.files import read_object
from fft.disk.folder import ADAPTER, CHECKPOINTS, EXPERIMENT, LEFT, MODEL
from fft.disk.local import local
from fft.experiment import Experiment, from_json
from fft.merging.formulas import interpolate
from fft.methods.trees import BASE_TREE
from fft.models.files.folders import CONFIG, instead_of_checkpoint
from fft.models.files.heads import stored_length
from fft.models.identity import base_sha256
from fft.run.base import load_base
from fft.run.heads import fresh_heads, load_heads
from fft.training.state import result_field
from fft.training.step import finished_params
from fft.training.trainable import Trainable, make_trainable, trained_leaves


def restore(directory: str | Path, which: str | None = None) -> models.Checkpoint:
    """Load the model of a run's "best" or "latest" step: (model, params, heads, primary, folder, raw_config, …).

    Without `which` it is the run's own model, as in RUN/model: the step of Retention.keep, or under a contract the
    chosen point. The base checkpoint must still be where the experiment says, because a saved step holds only what was
    trained. The run may still be in progress.

    Raises: InputError for a folder that is no run, or in which no good step is left.
    """
    run = restored(directory, which)
    return run.checkpoint._replace(params=run.params)


class Restored(NamedTuple):
    """A run's experiment, its base with every head, the trained tree of a saved step, and the parameters it gives."""

    experiment: Experiment
    checkpoint: models.Checkpoint
    theta: Params
    params: Params
    left: partial[Params]
    """loads the arrays that the method left for later runs (Parts.leave), at the step that the run keeps"""
    __repr__ = brief

    def merged_adapter(self) -> Adapter | None:
        """Return the adapter whose merge into the base is the parameters; None if they were made in another way."""
        method, base = self.experiment.method, self.checkpoint
        if method.tree is BASE_TREE or not method.tree.plain or self.params is base.params:
            return None
        merged, params = flatten(method.merge(base.params, self.theta)), flatten(self.params)
        if not all(bool((leaf == params[path]).all()) for path, leaf in merged.items()):
            return None
        return Adapter(method.owner, self.theta, base.heads, base.classifier)


def restored(directory: str | Path, which: str | None = None) -> Restored:
    """Load what `restore` does, together with the trained tree.

    Raises: as `restore`.
    """
    directory = Path(local(directory, "the run"))
    selected = _selected(directory, which)
    experiment, base, theta = _trained(directory, selected.step)
    left = partial(_left, directory, experiment, base)
    if selected.is_base:
        return Restored(experiment, base, theta, base.params, left)
    fresh = fresh_heads(directory / "heads")
    params = finished_params(experiment.method, base.params, theta, fresh)
    if selected.alpha != 1:
        params = interpolate(without_heads(base.params, fresh), params, selected.alpha)
    return Restored(experiment, base, theta, params, left)


def _left(directory: Path, experiment: Experiment, base: models.Checkpoint) -> Params:
    """Load the arrays that the method left, from RUN/left or, in a run older than that folder, from the whole state."""
    if (directory / LEFT).is_dir():
        return load_artefact(directory / LEFT)[0]
    selected, trainable = _selected(directory, None), trainable_of(experiment, base)
    if selected.is_base:
        return experiment.method.leave(trainable.init().opt_state)
    saved = Checkpoints(directory / CHECKPOINTS).restore(jax.eval_shape(trainable.init), selected.step)
    return experiment.method.leave(saved.tree.opt_state)


def trainable_of(experiment: Experiment, base: models.Checkpoint) -> Trainable:
    """Return the trainable tree of a run; its `init` has the shapes of the saved state."""
    watched = len(experiment.budgets)
    return make_trainable(experiment.method, experiment.optim, base, {}, 1, experiment.seed, watched)


def adapter_of(directory: str | Path, which: str | None = None) -> tuple[models.Checkpoint, Adapter, str]:
    """Load what a run trained as an adapter: (its base, the Adapter, the base's source as the experiment names it).

    Raises: as `restore`; InputError for a method that PEFT has no format for, and for one that changes the merged
    weights at the end of a run, because the result is then not the base with an adapter.
    """
    directory = Path(local(directory, "the run"))
    selected = _selected(directory, which)
    experiment, base, theta = _trained(directory, selected.step)
    check_writable(experiment.method.owner, base.model.family)
    if selected.is_base and (selected.alpha != 1 or not experiment.method.tree.plain):
        raise InputError(f"{directory} kept the base, step 0: there is no trained adapter. --step latest may have one")
    if selected.alpha != 1:
        raise InputError(
            f"{directory} keeps a point {selected.alpha:g} of the way from the base to its last step, which is not the "
            "base and an adapter any more; export the whole model with --to hf, or name a --step"
        )
    return base, trained_adapter(experiment.method, base, theta), experiment.model


def _trained(directory: Path, step: int | None) -> tuple[Experiment, models.Checkpoint, Params]:
    """Load (experiment, the base with every head of the run, the trained tree at `step`); None is the latest step.

    Raises: InputError where the base's weights have changed since the run.
    """
    path = directory / "experiment.json"
    experiment = from_json(read_object(path), where=str(path))
    loaded = load_base(experiment)
    length = length_of(experiment.max_length, loaded.model.config)
    base = loaded if predicts_tokens([experiment.new]) else loaded._replace(max_length=length)
    if base_sha256(base) != read_object(directory / "identity.json")["base_sha256"]:
        raise InputError(
            f"{experiment.model} holds other weights than those that {directory} was trained from: put the original "
            "checkpoint back there"
        )
    checkpoint = load_heads(models.computed(base, experiment.computation), directory / "heads")
    like = {result_field(bool(experiment.budgets)): trained_leaves(experiment.method, checkpoint)[0]}
    saved = Checkpoints(directory / CHECKPOINTS).restore(like, step, part=True)
    return experiment, checkpoint, next(iter(saved.tree.values()))


class Selected(NamedTuple):
    """A point of a run: a saved step, or a point between the base and it."""

    step: int | None
    """None: the latest good one"""
    alpha: float
    """the interpolation factor: 1 is the step, 0 the base"""
    is_base: bool
    """whether it is the base itself, perhaps with a fresh head"""


def _selected(directory: Path, which: str | None) -> Selected:
    """Return the point that `which` names; None is the run's own model."""
    done, checkpoints = directory / "run.json", Checkpoints(directory / CHECKPOINTS)
    contract = read_object(done).get("contract") if which is None and done.exists() else None
    if contract is not None:
        step = contract["kept"]["step"] or None  # the base's step 0 may be deleted: read the latest in its place
        return Selected(step, contract["kept"]["alpha"], step is None)
    which = which or from_json(read_object(directory / "experiment.json")).retention.keep
    latest, extra = checkpoints.read_extra()
    if which == "latest":
        return Selected(None, 1.0, latest == 0)
    return Selected(extra["best"], 1.0, extra["best"] == 0)


def kept_base(directory: str | Path, which: str | None = None) -> bool:
    """Whether the step that `restore` loads is step 0, the base itself with a fresh head."""
    return _selected(Path(local(directory, "the run")), which).is_base


def load_model(source: str, language: bool = False) -> models.Checkpoint:
    """Load the model that a path names: a finished run's, adapters merged, else a checkpoint folder or hf:NAME.

    `language` is as in `load_checkpoint`. Raises: as `load_checkpoint`.
    """
    source = local(source, "the model", hub=True)
    if (Path(source) / "run.json").is_file() and (Path(source) / ADAPTER).is_dir():
        return restore(source)
    return load_checkpoint(source, language)


def load_checkpoint(source: str, language: bool = False) -> models.Checkpoint:
    """Load the checkpoint that a path names, as `model_folder`; that of a run with the length it was trained at.

    With `language` it is a language model with its language head. Raises: as `model_folder`, and `fft.models.load` or
    `fft.models.load_language`.
    """
    checkpoint = (models.load_language if language else models.load)(model_folder(source))
    if language or not (Path(source) / EXPERIMENT).is_file():
        return checkpoint
    return checkpoint._replace(max_length=length_of(_configured_length(Path(source)), checkpoint.model.config))


def load_causal(source: str) -> models.Checkpoint:
    """Load the causal language model that a path names, as `model_folder`.

    Raises: as `model_folder` and `fft.models.load_causal`.
    """
    return models.load_causal(model_folder(local(source, "the model", hub=True)))


def _configured_length(run: Path) -> int | None:
    """Return the max_length of a run's experiment."""
    path = run / EXPERIMENT
    return validated(int | None, read_object(path).get("max_length"), f"{path}.max_length")


class Length(NamedTuple):
    """The number of tokens that longer texts are cut to."""

    tokens: int | None
    """None: the default of each kind of task"""
    notes: tuple[str, ...]
    known: bool
    """whether it was requested or a model was trained at it; False for a default"""


def scored_length(requested: int | None, checkpoints: Mapping[str, models.Checkpoint]) -> Length:
    """Return the length at which checkpoints, by name, are scored: the requested one, else that of their training, else
    the default of each task's kind.

    Raises: InputError where two were trained at different lengths and none is requested.
    """
    trained = {name: one.max_length for name, one in checkpoints.items() if one.max_length is not None}
    if requested is not None or not trained:
        return Length(requested, (), requested is not None)
    if len(set(trained.values())) > 1:
        lengths = ", ".join(f"{name} to {length}" for name, length in trained.items())
        raise InputError(
            f"texts were cut to different lengths in training: {lengths} tokens. Give one length for all with "
            "--max-length"
        )
    length = next(iter(trained.values()))
    note = f"texts are cut to {length} tokens, as in the training of {' and '.join(trained)}; --max-length changes that"
    default = length_of(None, next(iter(checkpoints.values())).model.config)
    return Length(length, () if length == default else (note,), True)


def tokenizer_folder(source: str) -> tuple[Path, int | None]:
    """Return the folder with the tokenizer of a checkpoint or a run, and the length it was trained at, if known.

    No weights are read. Raises: as `model_folder`, and InputError for a folder of something else.
    """
    source = local(source, "the model", hub=True)
    folder = models.find_folder(model_folder(source))
    if not (folder / CONFIG).is_file() and (problem := instead_of_checkpoint(folder)):
        raise InputError(problem)
    is_run = (Path(source) / EXPERIMENT).is_file()
    return folder, stored_length(folder) or (_configured_length(Path(source)) if is_run else None)


def model_folder(folder: str) -> str:
    """Return the checkpoint that a path names: a finished run's model/, else the path itself.

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
