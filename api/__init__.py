"""Every verb of the command line as a function that takes and returns nouns."""

from .artifacts import Check, bench, inspect, load, run, verify
from .data import DataView, check_data, new_recipe
from .foreign import DonorView, import_network, imported
from .frontier_picture import check_picture, draw_frontiers
from .libraries import (
    LibraryView,
    device,
    devices,
    module_library,
    modules,
    publish,
    recipes,
    train,
)
from .pipeline import Frontier, artifact_place, build, plan

__all__ = [
    "Check",
    "DataView",
    "DonorView",
    "Frontier",
    "LibraryView",
    "artifact_place",
    "bench",
    "build",
    "check_data",
    "check_picture",
    "device",
    "devices",
    "draw_frontiers",
    "import_network",
    "imported",
    "inspect",
    "load",
    "module_library",
    "modules",
    "new_recipe",
    "plan",
    "publish",
    "recipes",
    "run",
    "train",
    "verify",
]
