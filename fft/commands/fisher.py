"""`fft fisher`: measure the Fisher information of a checkpoint's task, and show where it sits."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from fft.errors import InputError
from fft.experiment import Data, Experiment
from fft.fisher import FisherPass, Running
from fft.schema import TELLS_DEFAULT, between
from fft.storage import Storage

NO_DATA = Data("")
SAVE_SECONDS = 60.0
SAID = 20  # lines of progress where there is no terminal


@dataclass(frozen=True)
class Flags:
    """Measure the diagonal Fisher information of a checkpoint on the task it knows, for `fft tune --fisher`.

    A call that was stopped goes on where it was when it is repeated. With --show alone an artefact that is there is
    shown: where the information sits, by layer and operation, as a table and a picture.
    """

    out: Path
    """the artefact's folder: tensors.safetensors and provenance.json"""
    model: Annotated[str, TELLS_DEFAULT] = ""
    """a folder with a Hugging Face checkpoint, a finished run, or hf:NAME (not needed with --show alone)"""
    original: Data = NO_DATA
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head of the original task, where the checkpoint has several (default: its classifier)"""
    max_length: Annotated[int | None, TELLS_DEFAULT] = Experiment.max_length
    """tokens of a text; longer ones are cut and counted (default: 128, or as many as the model takes)"""
    settings: tyro.conf.OmitArgPrefixes[FisherPass] = field(default_factory=FisherPass)
    storage: Storage = "float32"
    """how the artefact keeps the numbers; int8 is in blocks"""
    previous: Path | None = None
    """an artefact of an earlier task, to which this one is added: online EWC"""
    gamma: float = 1.0
    """what the previous one is multiplied by"""
    mesh: Literal["none", "data", "fsdp"] = "none"
    """split every batch over all devices, with the parameters on each (data) or split too (fsdp)"""
    show: bool = False
    """print where the information sits and draw it to OUT/places.svg and OUT/places.png"""
    seed: int = 0
    """seeds the choice of rows, the draws, and the split of a source that has one"""
    json: bool = False
    """print the result as one JSON object on standard output, everything else on standard error"""

    def __post_init__(self):
        between("gamma", self.gamma, 0.0, 1.0)


def parse(args: list[str], cli: Callable) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Measure, unless it is done; then show, where that is asked for."""
    from fft.information import load_fisher

    if flags.model:
        measure(flags, console)
    elif not flags.show:
        raise InputError("--model and --original are missing; with --show alone the artefact in --out is shown")
    stored, told = load_fisher(flags.out)
    spread = "" if told["trace_error"] is None else f" ± {100 * told['trace_error']:.2g} %"
    console.out(
        f"Fisher ({told['estimator']}) of {told['task']['name']!r} over {told['examples']:,} rows: trace "
        f"{told['trace']:.4g}{spread}; {told['storage']}, in {flags.out}",
        highlight=False,
    )
    return told | (_show(flags.out, stored, told, console) if flags.show else {}), 0


def measure(flags: Flags, console: Console) -> None:
    """Make the artefact in --out, or go on making it; nothing to do where it is finished.

    Errors: InputError for a checkpoint without the head, for data that do not fit it, and for a folder that holds
    something else.
    """
    from fft import models, tasks
    from fft.api import model_folder
    from fft.checkpoint import Checkpoints
    from fft.folder import FolderLock, agree
    from fft.information import accumulated, load_fisher, save_fisher
    from fft.job import base_sha256, key_for, original_batches
    from fft.methods import Context
    from fft.record import environment
    from fft.signals import StopFlag
    from fft.storage import unpack

    if not flags.original.source:
        raise InputError("--original is missing: the data of the task that the checkpoint knows, such as old.csv")
    checkpoint = models.load(model_folder(flags.model))
    name = flags.head or checkpoint.primary
    if name not in checkpoint.heads:
        heads = ", ".join(checkpoint.heads) or "none"
        raise InputError(f"{flags.model} has no head {name or 'to measure'}; its heads are: {heads}")
    data = tasks.prepare(flags.original, checkpoint, name, checkpoint.heads[name], _Split(flags.seed, flags.max_length))
    before = load_fisher(flags.previous, None, None) if flags.previous else None
    wanted = {
        "base_sha256": base_sha256(checkpoint),
        "task": {"name": name, "kind": data.task.kind, "labels": list(data.task.labels)},
        "data": {"source": flags.original.source, "train_rows": len(data.splits["train"].ids), **data.identity},
        **asdict(flags.settings),
        "storage": flags.storage,
        "seed": flags.seed,
        "previous": before and {"gamma": flags.gamma, "sha256": before[1]["sha256"]},
    }
    with StopFlag() as stop, FolderLock(flags.out):
        agree(flags.out / "request.json", wanted, "another Fisher pass")
        if (flags.out / "provenance.json").exists():
            return
        for warning in data.warnings:
            console.out(f"note: {warning}", highlight=False)
        mesh, params = _placed(flags.mesh, checkpoint.params)
        context = Context(
            checkpoint.model,
            params,
            tuple(head for head in checkpoint.heads if head != name),
            data.task,
            lambda n, size: original_batches(data, n, flags.seed, size),
            note=lambda text: console.out(text, highlight=False),
            poll=stop.check,
        )
        partial = Checkpoints(flags.out / "partial")
        with _Progress(console, min(flags.settings.samples, wanted["data"]["train_rows"])) as progress:
            fisher, task = flags.settings.measure(
                context,
                key_for(flags.seed, "prepare"),
                mesh=mesh,
                start=_resumed(partial, context, console),
                watch=_Watch(partial, stop, progress),
            )
        diagonal = fisher.diagonal
        if before:
            diagonal = accumulated(unpack(before[0]), flags.gamma, diagonal)
        told = {"examples": fisher.examples, "trace": fisher.trace, "trace_error": fisher.trace_error}
        if data.task.kind == "regression":
            wanted["task"]["sigma"] = task.sigma
        provenance = {**wanted, "model": flags.model, **told, **environment()}
        save_fisher(flags.out, diagonal, flags.storage, provenance)
        shutil.rmtree(partial.folder, ignore_errors=True)


@dataclass(frozen=True)
class _Split:
    """What of an experiment the reading of data depends on."""

    seed: int
    max_length: int | None


def _placed(mesh: str, params: Any) -> tuple[Any, Any]:
    """The mesh over all devices, or None, and the parameters as they lie on it."""
    import jax

    from fft.sharding import fully_sharded

    if mesh == "none":
        return None, params
    devices = jax.sharding.Mesh(jax.devices(), ("data",))
    return devices, fully_sharded(params, devices) if mesh == "fsdp" else params


def _resumed(partial: Any, context: Any, console: Console) -> Running | None:
    """The pass as it was last saved, or None."""
    import jax
    import jax.numpy as jnp

    from fft.paths import flatten, unflatten

    if not partial.steps():
        return None
    others = tuple(f"heads/{name}/" for name in context.fresh_heads)
    like = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
        for path, leaf in flatten(context.base).items()
        if not path.startswith(others)
    }
    found = partial.restore(unflatten(like))
    console.out(f"resuming behind {found.extra['examples']:,} rows", highlight=False)
    return Running(found.tree, found.extra["rows"], found.extra["examples"], tuple(found.extra["traces"]))


class _Watch:
    """Shows a pass, saves it every SAVE_SECONDS, and stops it, saved, when that is asked for."""

    def __init__(self, partial: Any, stop: Any, progress: "_Progress"):
        self.partial, self.stop, self.progress, self.saved = partial, stop, progress, time.monotonic()

    def __call__(self, running: Running) -> None:
        self.progress.show(running.examples)
        if self.stop.requested or time.monotonic() - self.saved > SAVE_SECONDS:
            _, rows, examples, traces = running
            self.partial.save(len(traces), running.total, {"rows": rows, "examples": examples, "traces": traces})
            self.saved = time.monotonic()
            self.stop.check()


class _Progress:
    """A bar on a terminal, SAID lines elsewhere."""

    def __init__(self, console: Console, rows: int):
        from rich.progress import Progress

        self.console, self.rows, self.said = console, rows, 0
        self.bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("Fisher", total=rows)

    def __enter__(self) -> "_Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def show(self, examples: int) -> None:
        """So many rows are done."""
        self.bar.update(self.task, completed=examples)
        if not self.console.is_terminal and examples * SAID // self.rows > self.said:
            self.said = examples * SAID // self.rows
            self.console.out(f"Fisher: {examples:,} of {self.rows:,} rows", highlight=False)


def _show(folder: Path, stored: Any, told: dict, console: Console) -> dict:
    """Print the table and draw the picture; {"places": ..., "picture": paths}."""
    from fft.information import by_place
    from fft.report.places import draw_places, places_table
    from fft.storage import unpack

    diagonal = unpack(stored)
    places = by_place(diagonal, len(diagonal.get("layers", {})))
    console.print(places_table(places))
    title = f"Fisher information of {told['task']['name']!r} ({told['estimator']}, {told['examples']:,} rows)"
    pictures = draw_places(places, title, folder / "places")
    console.out("wrote " + ", ".join(map(str, pictures)), highlight=False)
    return {"places": places, "pictures": [str(path) for path in pictures]}
