"""The method's statistics: computed once, then read from the run's folder."""

from collections.abc import Callable
from pathlib import Path

from fft.core.progress import doing
from fft.core.seeding import key_for
from fft.core.tree import Params, count
from fft.disk.artefact import load_artefact, save_artefact
from fft.methods import Context, Method


def is_prepared(directory: Path) -> bool:
    """Whether a run's folder already holds the statistics."""
    return (directory / "prepared" / "provenance.json").exists()


def prepare_once(
    method: Method,
    seed: int,
    context: Context,
    check_notes: tuple[str, ...],
    directory: Path,
    say: Callable[[str], None],
) -> tuple[Params, list[str]]:
    """Return the method's statistics and the notes on them, computing them unless DIRECTORY holds them.

    `check_notes` are those of the method's own check, which come first.
    """
    folder = directory / "prepared"
    if not is_prepared(directory):
        say(f"preparing {method.label}")
        notes = list(check_notes)
        with doing(f"preparing {method.label}"):
            aux = method.prepare(context._replace(note=notes.append), key_for(seed, "prepare"))
        provenance = {"method": method.label, "scalars": count(aux), "notes": notes}
        save_artefact(folder, aux, provenance)
    aux, provenance = load_artefact(folder)
    return aux, provenance["notes"]
