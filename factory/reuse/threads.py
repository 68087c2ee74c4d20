"""Linear algebra of small matrices on one thread: several wait for each other on a busy machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries


@contextlib.contextmanager
def small_matrices() -> Iterator[None]:
    """One thread for linear algebra while the block runs."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
