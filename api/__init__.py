"""Every verb of the command line as a function that takes and returns nouns."""

from .artifacts import Check, bench, inspect, load, run, verify
from .combination import BranchView, Combination, combine
from .data import DataView, check_data, new_recipe
from .disassembly import disassemble
from .disassembly_views import ClassView, Disassembly, FamilyView, ForgottenView, TaughtView
from .explanation import Explanation, FamilyFlow, draw_routes, explain
from .foreign import (
    MEASURES,
    DonorView,
    Likeness,
    PartitionView,
    foreign_network,
    import_network,
    import_torch,
    imported,
    partition,
    publish_import,
    read_import_card,
    similarity,
)
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
from .reassembly import BlockView, CandidateView, Reassembly, reassemble
from .reassembly_artifact import FinishView
from .similarity_picture import draw_similarity

__all__ = [
    "BlockView",
    "BranchView",
    "CandidateView",
    "Check",
    "ClassView",
    "Combination",
    "DataView",
    "Disassembly",
    "DonorView",
    "Explanation",
    "FamilyFlow",
    "FamilyView",
    "FinishView",
    "ForgottenView",
    "Frontier",
    "LibraryView",
    "Likeness",
    "MEASURES",
    "PartitionView",
    "Reassembly",
    "TaughtView",
    "artifact_place",
    "bench",
    "build",
    "check_data",
    "check_picture",
    "combine",
    "device",
    "devices",
    "disassemble",
    "draw_frontiers",
    "draw_routes",
    "draw_similarity",
    "explain",
    "foreign_network",
    "import_network",
    "import_torch",
    "imported",
    "inspect",
    "load",
    "module_library",
    "modules",
    "new_recipe",
    "partition",
    "plan",
    "publish",
    "publish_import",
    "read_import_card",
    "reassemble",
    "recipes",
    "run",
    "similarity",
    "train",
    "verify",
]
