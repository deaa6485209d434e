"""What went wrong, as one message and the exit code that it ends with; what nobody foresaw leaves its traceback."""

import errno
import os
import sys
import tempfile
import traceback

from fft.core.errors import FFTError, MachineError
from fft.core.signals import Stopped

UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h; Python's own 1 is the verdict that a task was lost
MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)


def told(error: BaseException) -> tuple[str, int]:
    """The message and the exit code of whatever was raised."""
    if isinstance(error, FFTError | Stopped):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if reason := _of_memory(error) or _of_files(error) or missing_platform():
        return reason, MachineError.exit_code
    return _unforeseen(error), UNFORESEEN


def _of_memory(error: BaseException) -> str | None:
    said = _first_line(error) or "Out of memory."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error).lower()):
        return f"{said} Lower --batch-size or --max-length, or use a larger machine."
    return None


def _of_files(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or error.errno not in MACHINE:
        return None
    from fft.disk.files import REMEDIES

    remedy = REMEDIES.get(error.errno)
    return f"{error.strerror}: {error.filename or 'a file'}{f'. {remedy}' if remedy else ''}"


def missing_platform() -> str | None:
    """What to say where JAX is told of a platform that is not here, which it meets with errors of many kinds."""
    names = [name for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if os.environ.get(name)]
    if not names or "jax" not in sys.modules:
        return None
    import jax

    try:
        jax.devices()
        return None
    except (RuntimeError, AssertionError):
        for setting in ("jax_platforms", "jax_platform_name"):
            jax.config.update(setting, None)
    said = " ".join(f"{name}={os.environ[name]}" for name in names)
    there = ", ".join(sorted({device.platform for device in jax.devices()} | {"cpu"}))
    return f"{said}: this machine or this jax has no such device (there are: {there}); unset it"


def _unforeseen(error: BaseException) -> str:
    said = f"not foreseen: {type(error).__name__}: {_first_line(error)}; the traceback"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="fft-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
        return f"{said} is above: please report it"
    return f"{said} is in {file.name}: please report it"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
