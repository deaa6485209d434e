"""Measure Fisher information into a folder: resumable, and refused where the folder holds another pass.

OUT/request.json            the settings, with the hashes of weights and data
    partial/                the state of an unfinished pass
    tensors.safetensors provenance.json
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp

from fft import models
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.seeding import key_for
from fft.core.signals import StopFlag
from fft.core.tree import Params, flatten, sum_of, unflatten
from fft.data import TaskData, prepare
from fft.data.settings import predicts_tokens
from fft.data.streams import original_batches
from fft.disk.checkpoint import Checkpoints
from fft.disk.environment import environment
from fft.disk.files import plain
from fft.disk.folder import REQUEST, FolderLock, agree, refuse_foreign, unclaimed_if_refused
from fft.disk.local import local
from fft.fisher.diagonal import FisherPass, Running
from fft.fisher.information import accumulated, load_previous, save_fisher
from fft.fisher.sharding import fully_sharded
from fft.fisher.storage import unpack
from fft.methods import Context
from fft.models.heads import chosen_head
from fft.models.identity import base_sha256
from fft.run.restored import load_checkpoint, model_folder, scored_length
from fft.run.settings import FisherSettings
from fft.stats.records import FisherRecord, FisherRequestRecord
from fft.tasks import Regress

SAVE_SECONDS = 60.0


DEFAULTS = asdict(FisherPass()) | {name: getattr(FisherSettings, name) for name in ("storage", "mesh", "seed")}
"""defaults for a request.json that was written before a setting existed"""


def measure(
    settings: FisherSettings,
    out: Path,
    say: Callable[[str], None] = lambda text: None,
    watch: Callable[[int, int], None] = lambda examples, rows: None,
) -> None:
    """Measure the Fisher information and save it in `out`, resuming an unfinished pass; a finished one is left as is.

    `watch(examples, rows)` is called after every batch with the number of rows done and in all.

    Raises: InputError for a checkpoint without the head, for data that do not fit it, and for a folder that holds
    something else; Stopped after SIGTERM or SIGINT, once the pass is saved.
    """
    if not settings.original.source:
        raise InputError("--original is missing: give data of the task that the checkpoint knows, such as old.csv")
    out, folder = Path(local(out, "--out")), model_folder(settings.model)
    language = predicts_tokens([settings.original])
    checkpoint = load_checkpoint(settings.model, language)
    name = chosen_head(checkpoint, settings.head, folder, "to measure", language)
    length = scored_length(settings.max_length, {folder: checkpoint})
    head = checkpoint.head(name)
    data = prepare(settings.original, checkpoint, name, head, seed=settings.seed, max_length=length.tokens)
    before = load_previous(settings.previous, checkpoint.params) if settings.previous else None
    request = _request(settings, checkpoint, data, before)
    refuse_foreign(out, REQUEST)
    with StopFlag() as stop, FolderLock(out), unclaimed_if_refused(out, REQUEST):
        agree(out / REQUEST, plain(request), "another Fisher pass", lambda stored: {**DEFAULTS, **stored})
        if (out / "provenance.json").exists():
            return
        for note in (*checkpoint.notes, *length.notes, *data.notes):
            say(f"note: {note}")
        mesh, params = _placed(settings.mesh, checkpoint.params)
        context = Context(
            checkpoint.model,
            params,
            tuple(head for head in checkpoint.heads if head != name),
            data.task,
            lambda n, size: original_batches(data, n, settings.seed, size),
            note=say,
            poll=stop.check,
        )
        partial = Checkpoints(out / "partial")
        rows = min(settings.estimate.samples, request.data["train_rows"])
        fisher, task = context.fisher(
            settings.estimate,
            key_for(settings.seed, "prepare"),
            mesh=mesh,
            start=_resumed(partial, context, say),
            watch=_Saver(partial, stop, lambda examples: watch(examples, rows)),
        )
        diagonal, trace, error = fisher.diagonal, fisher.trace, fisher.trace_error
        if before:
            diagonal = accumulated(unpack(before[0]), settings.gamma, diagonal)
            trace, error = float(sum_of(diagonal)), None
        sigma = {"sigma": task.sigma} if isinstance(task, Regress) else {}
        record = FisherRecord(
            environment=environment(),
            request=replace(request, task={**request.task, **sigma}),
            model=folder,
            examples=fisher.examples,
            trace=trace,
            trace_error=error,
        )
        save_fisher(out, diagonal, settings.storage, record.to_json())
        shutil.rmtree(partial.folder, ignore_errors=True)


def _request(
    settings: FisherSettings, checkpoint: models.Checkpoint, data: TaskData, before: tuple | None
) -> FisherRequestRecord:
    """Return the content of request.json; two calls on one folder must agree in it."""
    task = data.task
    return FisherRequestRecord(
        base_sha256=base_sha256(checkpoint),
        task={"name": task.name, "kind": task.kind, "labels": list(task.labels)},
        data={"source": settings.original.source, "train_rows": len(data.splits["train"].ids), **data.identity},
        **asdict(settings.estimate),
        storage=settings.storage,
        mesh=settings.mesh,
        seed=settings.seed,
        tasks=[*(before[1]["tasks"] if before else []), task.name],
        previous={"gamma": settings.gamma, "sha256": before[1]["sha256"]} if before else None,
    )


def _placed(mesh: str, params: Params) -> tuple[jax.sharding.Mesh | None, Params]:
    """Return the mesh over all devices, or None, and the parameters, sharded over it for "fsdp"."""
    if mesh == "none":
        return None, params
    devices = jax.sharding.Mesh(jax.devices(), ("data",))
    return devices, fully_sharded(params, devices) if mesh == "fsdp" else params


def _resumed(partial: Checkpoints, context: Context, say: Callable[[str], None]) -> Running | None:
    """Return the last saved state of the pass, or None."""
    if not partial.steps():
        return None
    like = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
        for path, leaf in flatten(context.base).items()
        if not context.is_fresh(path)
    }
    saved = partial.restore(unflatten(like))
    say(f"resuming after {counted(saved.extra['examples'], 'row')}")
    return Running(saved.tree, saved.extra["rows"], saved.extra["examples"], tuple(saved.extra["traces"]))


class _Saver:
    """Saves a pass every SAVE_SECONDS; on a stop signal, saves it and raises Stopped."""

    def __init__(self, partial: Checkpoints, stop: StopFlag, show: Callable[[int], None]) -> None:
        self.partial, self.stop, self.show, self.saved = partial, stop, show, time.monotonic()

    def __call__(self, running: Running) -> None:
        self.show(running.examples)
        if self.stop.requested or time.monotonic() - self.saved > SAVE_SECONDS:
            total, *counts = running
            self.partial.save(
                len(running.traces), total, dict(zip(("rows", "examples", "traces"), counts, strict=True))
            )
            self.saved = time.monotonic()
            self.stop.check()
