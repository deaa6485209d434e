"""Locks on files, which the system drops when the process ends, however it ends; and file systems that have none."""

import errno
import fcntl
from pathlib import Path
from typing import IO

from fft.core.errors import MachineError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def lock(file: IO, wait: bool = False, instead: str = "choose another folder") -> None:
    """Lock an open file for this process alone, until it is closed; with `wait`, once no other has it.

    Raises: BlockingIOError where another process has it and this one does not wait; MachineError on a file system
    without locks, with what to do `instead`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        folder = Path(file.name).parent
        raise MachineError(
            f"{folder} lies on a file system without locks (flock: {error.strerror}); {instead}"
        ) from None
