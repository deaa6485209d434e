"""`fft fisher`: measure the Fisher information of a checkpoint's task, and show where it sits."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.progress import doing
from fft.core.settings import TELLS_DEFAULT
from fft.core.tree import Params
from fft.disk.local import CHECKPOINT
from fft.experiment import NO_DATA, Data, Experiment
from fft.fisher.diagonal import FisherPass
from fft.fisher.storage import Storage

SAID = 20  # lines of progress where there is no terminal


@dataclass(frozen=True)
class Flags:
    """Measure the diagonal Fisher information of a checkpoint on the task it knows, for `fft tune --fisher`.

    A call that was stopped goes on where it was when it is repeated. With --show alone an artefact that is there is
    shown: where the information sits, by layer and operation, as a table and a picture.
    """

    out: Path
    """the artefact's folder: tensors.safetensors and provenance.json"""
    model: Annotated[str, TELLS_DEFAULT, CHECKPOINT] = ""
    """a folder with a Hugging Face checkpoint, a finished run, or hf:NAME (not needed with --show alone)"""
    original: Data = NO_DATA
    head: Annotated[str | None, TELLS_DEFAULT] = None
    """the head of the original task, where the checkpoint has several (default: its classifier)"""
    max_length: Annotated[int | None, TELLS_DEFAULT] = Experiment.max_length
    """tokens of a text; longer ones are cut and counted (default: as in its training, else 128 or what it takes)"""
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


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Measure, unless it is done; then show, where that is asked for."""
    from fft.fisher.information import load_fisher, tasks_of

    if flags.model:
        _measure(flags, console)
    elif not flags.show:
        raise InputError("--model and --original are missing; with --show alone the artefact in --out is shown")
    stored, told = load_fisher(flags.out)
    spread = "" if told["trace_error"] is None else f" ± {100 * told['trace_error']:.3g} %"
    console.out(
        f"Fisher ({told['estimator']}) of {tasks_of(told)}, over {counted(told['examples'], 'row')}: trace "
        f"{told['trace']:.4g}{spread}; {told['storage']}, in {flags.out}",
        highlight=False,
    )
    return told | (_show(flags.out, stored, told, console) if flags.show else {}), 0


def _measure(flags: Flags, console: Console) -> None:
    """Measure with a bar on a terminal, SAID lines elsewhere."""
    from fft.run.fisher import Request, measure
    from fft.run.restored import model_folder

    if not flags.original.source:
        raise InputError("--original is missing: the data of the task that the checkpoint knows, such as old.csv")
    given: dict[str, Any] = {field.name: getattr(flags, field.name) for field in fields(Request)}
    given["model"] = model_folder(flags.model)
    request = Request(**given)
    said = 0
    with doing("Fisher") as work:

        def watch(examples: int, rows: int) -> None:
            nonlocal said
            work.update(completed=examples, total=rows)
            if not console.is_terminal and examples * SAID // rows > said:
                said = examples * SAID // rows
                console.out(f"Fisher: {examples:,} of {counted(rows, 'row')}", highlight=False)

        measure(request, flags.out, lambda text: console.out(text, highlight=False), watch)


def _show(folder: Path, stored: Params, told: dict, console: Console) -> dict:
    """Print the table and draw the picture; {"places": ..., "picture": paths}."""
    from fft.fisher.information import by_place, tasks_of
    from fft.fisher.storage import unpack
    from fft.report.places import draw_places, places_table

    diagonal = unpack(stored)
    places = by_place(diagonal, len(diagonal.get("layers", {})))
    console.print(places_table(places))
    title = f"Fisher information of {tasks_of(told)} ({told['estimator']}, {counted(told['examples'], 'row')})"
    pictures = draw_places(places, title, folder / "places")
    console.out("wrote " + ", ".join(map(str, pictures)), highlight=False)
    return {"places": places, "pictures": [str(path) for path in pictures]}
