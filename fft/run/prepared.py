"""The method's statistics, computed once and then read from the run's folder."""

from collections.abc import Callable
from pathlib import Path

from fft.core.progress import doing
from fft.core.seeding import key_for
from fft.core.tree import Params, count
from fft.disk.artefact import load_artefact, save_artefact
from fft.methods import Context, Method


def is_prepared(directory: Path) -> bool:
    """Whether a run's folder has the statistics already."""
    return (directory / "prepared" / "provenance.json").exists()


def prepared(
    method: Method, seed: int, context: Context, checked: tuple[str, ...], directory: Path, say: Callable[[str], None]
) -> tuple[Params, list[str]]:
    """The method's statistics and what was noted of them, computed once and then read from DIRECTORY."""
    folder = directory / "prepared"
    if not is_prepared(directory):
        say(f"preparing {method.label}")
        notes = list(checked)
        with doing(f"preparing {method.label}"):
            aux = method.prepare(context._replace(note=notes.append), key_for(seed, "prepare"))
        provenance = {"method": method.label, "scalars": count(aux), "notes": notes}
        save_artefact(folder, aux, provenance)
    aux, provenance = load_artefact(folder)
    return aux, provenance["notes"]
