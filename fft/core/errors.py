"""The kinds of failure a user can meet, each with the exit code the command line ends with."""


class FFTError(Exception):
    """Base of all: the message says what was expected, what came, where, and what to do."""

    exit_code = 2


class InputError(FFTError):
    """Wrong usage or data: a flag, a file, a row, a checkpoint. Exit code 2."""

    exit_code = 2


class MachineError(FFTError):
    """The surroundings: no network, a full disk, a folder that cannot be written. Exit code 3."""

    exit_code = 3


class UndecidableError(FFTError):
    """Rows that cannot answer the question, whatever the models are. Exit code 4, as of an undecided verdict."""

    exit_code = 4
