"""Turn exceptions into one message and an exit code; an unexpected one also leaves its traceback."""

import errno
import os
import sys
import tempfile
import traceback

from fft.core.errors import FFTError, MachineError
from fft.core.signals import Stopped

UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h, not Python's 1, which is the verdict `fail`
MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)


def message_and_code(error: BaseException) -> tuple[str, int]:
    """Return the message and the exit code of an exception."""
    if isinstance(error, FFTError | Stopped):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if reason := _memory_message(error) or _file_message(error) or missing_platform():
        return reason, MachineError.exit_code
    return _unexpected(error), UNFORESEEN


def _memory_message(error: BaseException) -> str | None:
    message = _first_line(error) or "Out of memory."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error).lower()):
        return f"{message} Lower --batch-size or --max-length, or use a larger machine."
    return None


def _file_message(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or error.errno not in MACHINE:
        return None
    from fft.disk.files import REMEDIES

    remedy = REMEDIES.get(error.errno)
    return f"{error.strerror}: {error.filename or 'a file'}{f'. {remedy}' if remedy else ''}"


def missing_platform() -> str | None:
    """Return the message for a platform setting of JAX that this machine lacks, else None.

    JAX raises exceptions of many types in this case.
    """
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
    variables = " ".join(f"{name}={os.environ[name]}" for name in names)
    platforms = ", ".join(sorted({device.platform for device in jax.devices()} | {"cpu"}))
    return f"{variables}: this machine or this jax has no such device (it has: {platforms}); unset it"


def _unexpected(error: BaseException) -> str:
    message = f"unexpected error: {type(error).__name__}: {_first_line(error)}; the traceback"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="fft-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
        return f"{message} is above: please report it"
    return f"{message} is in {file.name}: please report it"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
