"""Silence for libraries that write to stdout below Python."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

_ONE_AT_A_TIME = threading.RLock()  # stdout is that of the process


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Nothing on stdout from below Python: HiGHS writes notes there that no option turns off."""
    with _ONE_AT_A_TIME, _redirected():
        yield


@contextlib.contextmanager
def _redirected() -> Iterator[None]:
    try:
        flush = ctypes.CDLL(None).fflush
        kept = os.dup(1)
    except (OSError, TypeError, AttributeError):  # no C library by that name, or no stdout
        yield
        return
    sys.stdout.flush()
    flush(None)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
