"""The command line: selects a command, parses its flags, prints its result, turns errors into exit codes.

Exit codes: 0 success, 1 the retention verdict is fail, 2 wrong usage or data, 3 a failure of the machine (network,
disk, folder), 4 undecided, 70 unexpected error, 130 and 143 stopped by SIGINT and SIGTERM with the state saved,
141 the reader of the output has gone.
"""

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any, TextIO, cast

from fft.commands.failures import message_and_code
from fft.core.allocator import keep_freed_memory, run_programs_in_turn
from fft.core.bounds import OutOfBoundsError
from fft.core.errors import InputError
from fft.disk.cache import keep_compiled_programs
from fft.disk.surroundings import holds_every_character, keep_a_home, keep_float32, show_what_fits

if TYPE_CHECKING:
    from rich.console import Console

COMMANDS = {
    "tune": "fine-tune a checkpoint on a new task and measure what the original task loses",
    "sequence": "learn several tasks in turn, and report how each affects the others",
    "eval": "score a checkpoint on a task",
    "generate": "write texts with a causal language model",
    "check": "test whether a tuned checkpoint is still as good as its base on the original task",
    "diagnose": "report which layers forgot, and whether the features or only the head changed",
    "repair": "recover what tuning lost by merging a checkpoint with its base, without training",
    "merge": "merge checkpoints tuned from one base: soups, task vectors, TIES, DARE, Fisher",
    "compare": "compare finished runs in one table and one picture",
    "export": "write a run's model as a Hugging Face checkpoint, or its adapter for PEFT",
    "fisher": "estimate the Fisher information of a task, for EWC, and show which layers have it",
    "data": "inspect a data source: rows, labels, lengths, problems",
    "sweep": "run the unfinished experiments of a Python file",
    "demo": "run four recipes on real data: one table, one picture",
}
PLAIN_WIDTH = 120
SEVERAL = ("--original", "--original-head", "--max-drop", "--tasks", "--prompt", "--adapter", "--adapter-weights")
"""flags that take one or more values"""
FEW = 4  # a message lists up to this many files by name
CLOSED_PIPE = 141  # 128 + SIGPIPE, as for any command whose reader has gone


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; with --json the last line on standard output is one JSON object."""
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in argv
    show_what_fits()
    try:
        result, exit_code = _execute(_choose(argv[:1]), argv[1:], as_json)
        if as_json:
            _print_json(result)
        return exit_code
    except BrokenPipeError:
        _let_go(sys.stdout)
        return CLOSED_PIPE
    except SystemExit as left:
        if left.code == 1:  # rich exits with 1 on a closed pipe
            return CLOSED_PIPE
        if as_json and left.code:
            _print_json({"error": "wrong usage; see standard error", "exit_code": left.code})
        return cast("int", left.code or 0)  # the parsers exit with a number and have printed the reason
    except OutOfBoundsError as error:
        return _fail(*message_and_code(as_typed(error, argv)), as_json)
    except BaseException as error:
        return _fail(*message_and_code(error), as_json)


def _execute(command: str, args: list[str], as_json: bool) -> tuple[dict, int]:
    """Parse the flags of a command and run it."""
    import tyro

    from fft.disk.local import make_local
    from fft.report.console import Progress

    keep_a_home()
    keep_compiled_programs()
    keep_float32()
    keep_freed_memory()
    refuse_undecoded(args)
    refuse_empty_out(args)
    refuse_bare(args)
    module = importlib.import_module(f"fft.commands.{command}")
    shown = [tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName]
    if {"--help", "-h"} & set(args):  # None unsets a value of --config; the help need not repeat it at every flag
        shown.append(tyro.conf.DisallowNone)

    def read(kind: type, args: list[str], **more: Any) -> Any:
        refuse_second_source(args, kind)
        return tyro.cli(kind, args=args, prog=f"fft {command}", config=shown, **more)

    flags = module.parse(dotted(args, module.Flags), read)
    make_local(flags)
    run_programs_in_turn()
    # Standard output is for the result alone, so prints of libraries and sweep files go to standard error.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        console = _console(as_json)
        with Progress(console, f"fft {command}"):
            return module.execute(flags, console)


def as_typed(error: OutOfBoundsError, args: Sequence[str]) -> OutOfBoundsError:
    """Return the error with the flag as typed: a task's settings do not know whether they belong to --new."""
    flags = {name for name in (arg.partition("=")[0].replace("_", "-") for arg in args) if name.startswith("--")}
    if f"--{error.setting}" in flags:
        return error
    typed = [flag for flag in flags if flag.endswith((f"-{error.setting}", f".{error.setting}"))]
    return OutOfBoundsError(typed[0].removeprefix("--"), error.complaint) if len(typed) == 1 else error


def refuse_undecoded(args: Sequence[str]) -> None:
    """Reject a name with undecodable bytes, which no JSON record could hold. Raises: InputError."""
    for value in args:
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(
                f"{value!a} has bytes that are not {sys.getfilesystemencoding()}: rename the file, or, if they are "
                "UTF-8, set a UTF-8 locale, as with LC_ALL=C.UTF-8"
            )


def refuse_empty_out(args: Sequence[str]) -> None:
    """Reject `--out ""`, the result of an unset shell variable: as a path it would be the current folder.

    Raises: InputError.
    """
    if any(name == "--out=" or (name == "--out" and value == "") for name, value in pairwise([*args, None])):
        raise InputError("--out is empty: name a folder, such as --out runs/1, or . for the current folder")


def refuse_bare(args: Sequence[str]) -> None:
    """Reject a flag of one or more values that has none, the result of an unset shell variable: it would be parsed as
    if the flag were absent.

    Raises: InputError.
    """
    for name, value in pairwise([*args, None]):
        if name in SEVERAL and (value is None or value.startswith("--")):
            raise InputError(f"{name} has no value: give one, or leave out the flag")


def refuse_second_source(args: Sequence[str], flags: type) -> None:
    """Reject a second file after a flag of one source, as a shell expands `--new parts/*.csv`. Raises: InputError."""
    from fft.data.several import UnnamedData
    from fft.experiment import Data, Texts

    groups = {field.name: field.type for field in dataclasses.fields(flags) if field.type in (Data, Texts, UnnamedData)}
    single = [f"--{group}{part}" for group in groups for part in ("", ".validation", ".test")]
    args = [*(f"--{group}" for group, kind in groups.items() if kind is UnnamedData), *args]
    for at, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        first, *words = [value, *args[at + 1 :]] if equals else [*args[at + 1 :], ""]
        if name in single and (more := list(takewhile(_is_data_file, words))):
            raise InputError(_one_source(name, [first, *more]))


def _one_source(name: str, files: Sequence[str]) -> str:
    from fft.data.convert import joined
    from fft.data.documents import ENDINGS

    few = len(files) <= FEW
    named = ", ".join(files) if few else f"{files[0]} to {files[-1]}"
    endings = {os.path.splitext(file)[1].lower() for file in files}
    if endings <= set(ENDINGS) and name != "--unlabelled":
        pattern = os.path.join(os.path.dirname(files[0]), f"*{min(endings)}")
        return (
            f"{name} takes one source, got {len(files)}: {named}. Name their folder, or a pattern in quotes, which the "
            f"shell leaves as it is: {name} '{pattern}'"
        )
    join = joined(os.path.splitext(files[0])[1], shlex.join(files) if few else "FILES")
    return f"{name} takes one source, got {len(files)}: {named}. Join them: {join}"


def _is_data_file(word: str) -> bool:
    """Whether an argument looks like a data file, and not like a folder or a model of the hub."""
    return bool(os.path.splitext(word)[1]) and not word.startswith(("-", "hf:")) and not os.path.isdir(word)


def dotted(args: Sequence[str], flags: type) -> list[str]:
    """Return the arguments with `--new-text` as `--new.text`: a task's settings may be written with a dash or a dot."""
    from fft.data.several import SeveralData
    from fft.experiment import Data

    tasks = (Data, SeveralData)
    groups = [f.name for f in dataclasses.fields(flags) if isinstance(f.type, type) and issubclass(f.type, tasks)]
    settings = [field.name.replace("_", "-") for field in dataclasses.fields(Data)]
    spellings = {f"--{group}-{setting}": f"--{group}.{setting}" for group in groups for setting in settings}

    def spelled(argument: str) -> str:
        name, equals, value = argument.partition("=")
        return spellings.get(name.replace("_", "-"), name) + equals + value

    return [spelled(argument) for argument in args]


def _choose(argv: list[str]) -> str:
    parser = argparse.ArgumentParser(
        prog="fft",
        description="Fine-tune a pre-trained transformer without forgetting what it knew, and prove it.",
        epilog="fft COMMAND --help lists a command's flags. The documentation is in docs/.",
    )
    parser.add_argument("--version", action="version", version=_version() if "--version" in argv else "")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser.parse_args(argv).command


def _version() -> str:
    from fft.disk.environment import installed_version

    return f"fft {installed_version('fft-jax') or '(not installed)'}"


def _console(as_json: bool) -> "Console":
    from rich.console import Console

    stream = sys.stderr if as_json else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH)


def _fail(message: str, exit_code: int, as_json: bool) -> int:
    try:
        print(f"fft: {message}", file=sys.stderr, flush=True)
    except OSError:
        _let_go(sys.stderr)
    try:
        if as_json:
            _print_json({"error": message, "exit_code": exit_code})
        sys.stdout.flush()
    except OSError:
        _let_go(sys.stdout)
    return exit_code


def _let_go(stream: TextIO) -> None:
    """Redirect a stream that cannot be written to the null device.

    Otherwise the interpreter would report the error again at exit, and change the exit code.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_json(value: dict) -> None:
    from fft.disk.files import plain

    print(json.dumps(plain(value), ensure_ascii=not holds_every_character(sys.stdout)), flush=True)
