"""The command line: chooses a command, parses its flags, prints its result, turns errors into exit codes.

Exit codes: 0 fine, 1 the retention verdict failed, 2 wrong usage or data, 3 the machine (network, disk, folder),
4 undecided, 70 not foreseen, 130 and 143 stopped by SIGINT and SIGTERM with the state saved, 141 nobody reads the
output any more.
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

from fft.commands.allocator import keep_freed_memory
from fft.commands.failures import told
from fft.core.bounds import OutOfBoundsError
from fft.core.errors import InputError
from fft.disk.cache import keep_compiled_programs
from fft.disk.surroundings import holds_every_character, keep_a_home, keep_float32, show_what_fits

if TYPE_CHECKING:
    from rich.console import Console

COMMANDS = {
    "tune": "fine-tune a checkpoint on a new task and watch the original one",
    "sequence": "learn several tasks one after the other, and say what each did to the others",
    "eval": "score a checkpoint on a task",
    "check": "say whether one checkpoint still does what another one could",
    "diagnose": "say which layers forgot, and whether the knowledge is gone or only the head misaligned",
    "repair": "win back what tuning lost by merging a checkpoint with its base, without training",
    "merge": "make one checkpoint of several that were tuned from one base: soups, task vectors, TIES, DARE, Fisher",
    "compare": "put finished runs side by side",
    "export": "write a run's model as a Hugging Face checkpoint, or its adapter for PEFT",
    "fisher": "measure the Fisher information of a task, for EWC, and show where it sits",
    "data": "look into a data source: rows, labels, lengths, trouble",
    "sweep": "run the experiments of a Python file that are not finished yet",
    "demo": "the whole story on real data: six recipes, one table, one picture",
}
PLAIN_WIDTH = 120
SEVERAL = ("--original", "--original-head", "--max-drop", "--tasks")  # flags of one or more values
FEW = 4  # files that a message names one by one
CLOSED_PIPE = 141  # 128 + SIGPIPE, as of any command whose reader has gone


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. With --json the last line on standard output is one JSON object."""
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
        if left.code == 1:  # rich has met a closed pipe
            return CLOSED_PIPE
        if as_json and left.code:
            _print_json({"error": "wrong usage, as told on standard error", "exit_code": left.code})
        return cast("int", left.code or 0)  # the parsers, which end with numbers, have printed what there is to say
    except OutOfBoundsError as error:
        return _fail(*told(as_typed(error, argv)), as_json)
    except BaseException as error:
        return _fail(*told(error), as_json)


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
    if {"--help", "-h"} & set(args):  # the value None unsets what --config sets; not every flag need say so
        shown.append(tyro.conf.DisallowNone)

    def read(kind: type, args: list[str], **more: Any) -> Any:
        refuse_second_source(args, kind)
        return tyro.cli(kind, args=args, prog=f"fft {command}", config=shown, **more)

    flags = module.parse(dotted(args, module.Flags), read)
    make_local(flags)
    # Standard output belongs to the result; what libraries and sweep files print there goes the other way.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        console = _console(as_json)
        with Progress(console, f"fft {command}"):
            return module.execute(flags, console)


def as_typed(error: OutOfBoundsError, args: Sequence[str]) -> OutOfBoundsError:
    """The error with the flag as it was typed: the settings of a task do not know whether they are --new's."""
    flags = {name for name in (arg.partition("=")[0].replace("_", "-") for arg in args) if name.startswith("--")}
    typed = [flag for flag in flags if flag.endswith((f"-{error.setting}", f".{error.setting}"))]
    return OutOfBoundsError(typed[0].removeprefix("--"), error.complaint) if len(typed) == 1 else error


def refuse_undecoded(args: Sequence[str]) -> None:
    """Refuse a name with bytes that are no text, which no record of a run could hold."""
    for value in args:
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(
                f"{value!a} holds bytes that are not {sys.getfilesystemencoding()}; rename the file, or, if they are "
                "UTF-8, set a locale that is too, as with LC_ALL=C.UTF-8"
            )


def refuse_empty_out(args: Sequence[str]) -> None:
    """Refuse `--out ""`, which an unset variable of a script makes: as a path it is the folder one happens to be in."""
    if any(name == "--out=" or (name == "--out" and value == "") for name, value in pairwise([*args, None])):
        raise InputError("--out is empty; name a place, such as --out runs/1, or . for the folder you are in")


def refuse_bare(args: Sequence[str]) -> None:
    """Refuse a flag of one or more values without any, as an unset variable of a script leaves it: it would
    read as though the flag had not been given.
    """
    for name, value in pairwise([*args, None]):
        if name in SEVERAL and (value is None or value.startswith("--")):
            raise InputError(f"{name} needs a value")


def refuse_second_source(args: Sequence[str], flags: type) -> None:
    """Refuse a second file behind a flag of one source, which a shell makes of `--new parts/*.csv`."""
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

    few = len(files) <= FEW
    named = ", ".join(files) if few else f"{files[0]} to {files[-1]}"
    join = joined(os.path.splitext(files[0])[1], shlex.join(files) if few else "FILES")
    return f"{name} takes one source, and here are {len(files)}: {named}. Join them: {join}"


def _is_data_file(word: str) -> bool:
    """Whether a word of the command line looks like a file of data, and not like a folder or a model of the hub."""
    return bool(os.path.splitext(word)[1]) and not word.startswith(("-", "hf:")) and not os.path.isdir(word)


def dotted(args: Sequence[str], flags: type) -> list[str]:
    """The arguments with `--new-text` spelled `--new.text`: a setting of a task may be named with a dash or a dot."""
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
        epilog="fft COMMAND --help tells a command's flags. The documentation is in docs/.",
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
    """Nobody reads the stream, or there is no room for it: the interpreter, at its end, would complain once more, and
    end with a code of its own.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_json(value: dict) -> None:
    from fft.disk.files import plain

    print(json.dumps(plain(value), ensure_ascii=not holds_every_character(sys.stdout)), flush=True)
