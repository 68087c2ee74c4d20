"""Programs that run in two processes, as ``torchrun`` would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def launch_two(program: str, folder: Path, *words: str) -> None:
    """Run a Python program twice, side by side; its words are the folder and ``words``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder), *words],
            env={**os.environ, **common, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]


@pytest.fixture
def launch() -> Callable[..., None]:
    """The function ``launch(program, folder, *words)``."""
    return launch_two
