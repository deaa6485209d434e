"""The errors a user can see, each with the exit code of the command line."""


class FFTError(Exception):
    """Base class; the message says what is wrong, where, what was expected, and what to do."""

    exit_code = 2


class InputError(FFTError):
    """Raised for wrong usage or data: a flag, a file, a row, a checkpoint. Exit code 2."""

    exit_code = 2


class MachineError(FFTError):
    """Raised for failures of the machine: no network, a full disk, a folder that cannot be written. Exit code 3."""

    exit_code = 3


class UndecidableError(FFTError):
    """Raised if the rows cannot answer the question, whatever the models predict. Exit code 4, as for undecided."""

    exit_code = 4
