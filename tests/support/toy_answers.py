"""What tests of several files ask of toy libraries."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from nnfactory import api
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import LatencyTable

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]


def frontier_ms(library: ModuleLibrary, device: str = "host") -> list[float]:
    """Estimated latencies on the frontier, rising."""
    answer = api.plan(task=library.kind, device=device, library=str(library.folder), points=8)
    return [p.estimate.latency_ms.value for p in answer.points if p.estimate.latency_ms]


def install(library: ModuleLibrary) -> Path:
    place = Path(os.environ["XDG_DATA_HOME"]) / "nnfactory" / "libraries" / library.name
    shutil.copytree(library.folder, place)
    return place
