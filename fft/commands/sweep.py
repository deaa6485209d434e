"""`fft sweep`: run the unfinished experiments of a Python file."""

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
    """Run the experiments of a Python file. Finished ones are skipped, interrupted ones are resumed.

    The file defines `experiments() -> dict[str, Experiment]`; each runs in OUT/NAME. The file is executed, so pass only
    code that you trust.
    """

    file: tyro.conf.Positional[Path]
    """the Python file"""
    out: Path = Path("runs")
    """parent folder of the run folders"""
    only: str | None = None
    """run only experiments whose name contains this text"""
    json: AsJson = False


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags."""
    return cli(Flags, args=args)


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Run the unfinished experiments in the file's order, then print one table of all."""
    from fft.commands.compare import show

    chosen = {name: e for name, e in named_experiments(flags.file).items() if flags.only is None or flags.only in name}
    if not chosen:
        raise InputError(f"{flags.file} names no experiment that contains {flags.only!r}")
    records = run_missing(chosen, flags.out, console)
    show(list(records.values()), console, None)
    return {"runs": records}, 0


def named_experiments(file: Path) -> dict[str, Experiment]:
    """Return the experiments by name that the file's `experiments()` returns.

    Raises: InputError for a missing file, an error in it, or another result.
    """
    if not file.is_file():
        raise InputError(f"{file} is not a file: give a Python file that defines experiments()")
    with _user_code_errors(file):
        make = runpy.run_path(str(file)).get("experiments")
        if not callable(make):
            raise InputError(
                f"{file} defines no function experiments(): define one that returns a dict of name to fft.Experiment"
            )
        experiments_by_name = make()
    if not isinstance(experiments_by_name, dict) or not all(
        isinstance(e, Experiment) for e in experiments_by_name.values()
    ):
        raise InputError(f"{file}: experiments() must return a dict of name to fft.Experiment")
    return experiments_by_name


@contextmanager
def _user_code_errors(file: Path) -> Iterator[None]:
    """Turn any exception of the user's code, SystemExit included, into an InputError that names its line."""
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
    """Return the records of all experiments by name, after running the unfinished ones in OUT/NAME.

    `known` is the cache that `fft.run.run.run` shares between runs; pass a dict to share it between calls too.
    `watch` is handed every event of the runs.
    """
    from fft.report.console import Display, tee
    from fft.run.run import run

    records, known = {}, {} if known is None else known
    for name, experiment in experiments.items():
        with Display(console, f"{name}: ") as display:
            records[name] = run(experiment, out / name, tee(display.show, watch), known).record | {"name": name}
    return records
