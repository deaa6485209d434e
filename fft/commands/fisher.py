"""`fft fisher`: measure the Fisher information of a checkpoint's task, and show where it sits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.progress import doing
from fft.core.settings import AsJson
from fft.core.tree import Params
from fft.run.settings import FisherSettings

SAID = 20  # lines of progress where there is no terminal


@dataclass(frozen=True, kw_only=True)
class Flags(FisherSettings):
    """Measure the diagonal Fisher information of a checkpoint on the task it knows, for `fft tune --fisher`.

    A call that was stopped goes on where it was when it is repeated. With --show alone an artefact that is there is
    shown: where the information sits, by layer and operation, as a table and a picture.
    """

    out: Path
    """the artefact's folder: tensors.safetensors and provenance.json"""
    show: bool = False
    """print where the information sits and draw it to OUT/places.svg and OUT/places.png"""
    json: AsJson = False


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
    from fft.run.fisher import measure

    said = 0
    with doing("Fisher") as work:

        def watch(examples: int, rows: int) -> None:
            nonlocal said
            work.update(completed=examples, total=rows)
            if not console.is_terminal and examples * SAID // rows > said:
                said = examples * SAID // rows
                console.out(f"Fisher: {examples:,} of {counted(rows, 'row')}", highlight=False)

        measure(flags, flags.out, lambda text: console.out(text, highlight=False), watch)


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
