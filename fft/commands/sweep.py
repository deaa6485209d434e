"""`fft sweep`: run the experiments of a Python file that are not finished yet."""

import runpy
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from fft.core.errors import FFTError, InputError
from fft.core.settings import AsJson
from fft.experiment import Experiment


@dataclass(frozen=True)
class Flags:
    """Run the experiments that a Python file names. Finished ones are skipped, interrupted ones go on.

    The file defines `experiments() -> dict[str, Experiment]`; each runs in OUT/NAME. It is your own code and is run as
    such.
    """

    file: tyro.conf.Positional[Path]
    """the Python file"""
    out: Path = Path("runs")
    """the folder of the run folders"""
    only: str | None = None
    """run only the experiments whose name contains this text"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """The flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Run what is missing, in the file's order; then one table over all."""
    from fft.commands.compare import show

    chosen = {name: e for name, e in named_experiments(flags.file).items() if flags.only is None or flags.only in name}
    if not chosen:
        raise InputError(f"{flags.file} names no experiment that contains {flags.only!r}")
    records = run_missing(chosen, flags.out, console)
    show(list(records.values()), console, None)
    return {"runs": records}, 0


def named_experiments(file: Path) -> dict[str, Experiment]:
    """What the file's `experiments()` returns: experiments by name."""
    if not file.is_file():
        raise InputError(f"{file} is not a file; fft sweep runs a Python file that defines experiments()")
    with _its_own_errors(file):
        make = runpy.run_path(str(file)).get("experiments")
        if not callable(make):
            raise InputError(f"{file} does not define a function experiments()")
        found = make()
    if not isinstance(found, dict) or not all(isinstance(e, Experiment) for e in found.values()):
        raise InputError(f"{file}: experiments() must return a dict of name to fft.Experiment")
    return found


@contextmanager
def _its_own_errors(file: Path) -> Iterator[None]:
    """Turn what is raised by the user's own code, an exit included, into an InputError that names its line."""
    try:
        yield
    except FFTError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"{file}, line {lines[-1]}" if lines else f"{file}"
        raise InputError(f"{where}: {type(error).__name__}: {error}") from error


def run_missing(
    experiments: dict[str, Experiment],
    out: Path,
    console: Console,
    known: dict[str, dict] | None = None,
    watch: Callable[[dict], None] = lambda event: None,
) -> dict[str, dict]:
    """The records of all experiments by name, each run in OUT/NAME unless it is finished there.

    `known` is what `fft.run.run.run` shares between runs; a caller with several calls may hand in its own. `watch` is
    handed every event of the runs.
    """
    from fft.report.console import Display, tee
    from fft.run.run import run

    records, known = {}, {} if known is None else known
    for name, experiment in experiments.items():
        with Display(console, f"{name}: ") as display:
            records[name] = run(experiment, out / name, tee(display.show, watch), known).record | {"name": name}
    return records
