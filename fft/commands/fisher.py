"""`fft fisher`: estimate the Fisher information of a checkpoint's task, and show which layers have it."""

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

PROGRESS_LINES = 20  # without a terminal


@dataclass(frozen=True, kw_only=True)
class Flags(FisherSettings):
    """Estimate the diagonal Fisher information of a checkpoint on its original task, for `fft tune --fisher`.

    Repeat an interrupted call to resume it. With --show alone, an existing artefact is shown: the information by layer
    and operation, as a table and a picture.
    """

    out: Path
    """folder of the artefact: tensors.safetensors and provenance.json"""
    show: bool = False
    """print the information by layer and operation, and draw it to OUT/places.svg and OUT/places.png"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Estimate unless that is done already; then show the result if --show is given."""
    from fft.fisher.information import load_fisher, tasks_of

    if flags.model:
        _measure(flags, console)
    elif not flags.show:
        raise InputError("--model and --original are missing: give them, or --show for the artefact in --out")
    stored, provenance = load_fisher(flags.out)
    spread = "" if provenance["trace_error"] is None else f" ± {100 * provenance['trace_error']:.3g} %"
    console.out(
        f"Fisher ({provenance['estimator']}) of {tasks_of(provenance)}, over "
        f"{counted(provenance['examples'], 'row')}: trace {provenance['trace']:.4g}{spread}; "
        f"{provenance['storage']}, in {flags.out}",
        highlight=False,
    )
    return provenance | (_show(flags.out, stored, provenance, console) if flags.show else {}), 0


def _measure(flags: Flags, console: Console) -> None:
    """Estimate, with a progress bar on a terminal and PROGRESS_LINES lines elsewhere."""
    from fft.run.fisher import measure

    printed = 0
    with doing("Fisher") as work:

        def watch(examples: int, rows: int) -> None:
            nonlocal printed
            work.update(completed=examples, total=rows)
            if not console.is_terminal and examples * PROGRESS_LINES // rows > printed:
                printed = examples * PROGRESS_LINES // rows
                console.out(f"Fisher: {examples:,} of {counted(rows, 'row')}", highlight=False)

        measure(flags, flags.out, lambda text: console.out(text, highlight=False), watch)


def _show(folder: Path, stored: Params, provenance: dict, console: Console) -> dict:
    """Print the table and draw the picture; return {"places": ..., "pictures": paths}."""
    from fft.fisher.information import by_place, tasks_of
    from fft.fisher.storage import unpack
    from fft.report.places import draw_places, places_table

    diagonal = unpack(stored)
    places = by_place(diagonal, len(diagonal.get("layers", {})))
    console.print(places_table(places))
    examples = counted(provenance["examples"], "row")
    title = f"Fisher information of {tasks_of(provenance)} ({provenance['estimator']}, {examples})"
    pictures = draw_places(places, title, folder / "places")
    console.out("wrote " + ", ".join(map(str, pictures)), highlight=False)
    return {"places": places, "pictures": [str(path) for path in pictures]}
