"""File locks, which the system releases when the process ends or is killed."""

import errno
import fcntl
from pathlib import Path
from typing import IO

from fft.core.errors import MachineError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def lock(file: IO, wait: bool = False, instead: str = "choose another folder") -> None:
    """Lock an open file exclusively until it is closed; with `wait`, first wait for other processes.

    Raises: BlockingIOError if another process has the lock and `wait` is false; MachineError on a file system
    without locks, with the advice `instead`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        folder = Path(file.name).parent
        raise MachineError(f"{folder} is on a file system without locks (flock: {error.strerror}); {instead}") from None
