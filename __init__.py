"""Small neural networks for a task, a device and a budget, assembled from pretrained modules.

Public names are imported when they are first used, so ``import nnfactory`` loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import bench, build, import_torch, inspect, load, plan, reassemble, verify
    from .factory.errors import (
        BudgetError,
        DataError,
        DeviceError,
        InconclusiveError,
        MissingExtraError,
        NNFactoryError,
        PrecisionError,
        ShapeError,
        SpecError,
        UnknownNameError,
        UsageError,
        VerificationError,
    )
    from .factory.schema import (
        Accuracy,
        Artifact,
        Budget,
        BuildResult,
        Certificate,
        DeviceProfile,
        EnergyTable,
        Estimate,
        FrontierPoint,
        Gain,
        Interval,
        LatencyTable,
        MeasuredChoice,
        Measurement,
        Module,
        OwnedRange,
        Parity,
        Plan,
        Slot,
        Task,
        TensorSpec,
        TrainingStatus,
    )

__version__ = "0.1.0"

__all__ = [
    "Accuracy",
    "Artifact",
    "Budget",
    "BudgetError",
    "BuildResult",
    "Certificate",
    "DataError",
    "DeviceError",
    "DeviceProfile",
    "EnergyTable",
    "Estimate",
    "FrontierPoint",
    "Gain",
    "InconclusiveError",
    "Interval",
    "LatencyTable",
    "MeasuredChoice",
    "Measurement",
    "MissingExtraError",
    "Module",
    "NNFactoryError",
    "OwnedRange",
    "Parity",
    "Plan",
    "PrecisionError",
    "ShapeError",
    "Slot",
    "SpecError",
    "Task",
    "TensorSpec",
    "TrainingStatus",
    "UnknownNameError",
    "UsageError",
    "VerificationError",
    "__version__",
    "bench",
    "build",
    "import_torch",
    "inspect",
    "load",
    "plan",
    "reassemble",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.endswith("Error"):
        home = ".factory.errors"
    elif name[0].isupper():
        home = ".factory.schema"
    else:
        home = ".api"
    value = getattr(importlib.import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
