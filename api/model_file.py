"""A finished network as an ONNX file that says where it comes from."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..factory.schema import Plan

if TYPE_CHECKING:
    from ..factory.graph.network import Network


def model_file(network: Network, plan: Plan, *, license: str, stride: int | None = None) -> bytes:
    """Serialized ONNX: metadata, opset, checker.

    Args:
        network: With the answer appended.
        plan: What it was made by.
        license: Of the weights.
        stride: Input pixels per pixel of the coarsest feature map that detects, or None.
    """
    from .. import __version__
    from ..exporters.metadata import Imprint, apply_metadata_, network_metadata
    from ..exporters.onnx import bytes_from_network
    from ..factory.graph.network import model_from_network

    imprint = Imprint(
        plan_id=plan.id,
        library=plan.library,
        version=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        license=license,
    )
    metadata = network_metadata(
        plan.task, size=(plan.input_size, plan.input_size), stride=stride or plan.input_size,
        imprint=imprint,
    )  # fmt: skip
    model = model_from_network(network)
    apply_metadata_(model, metadata)
    return bytes_from_network(model)
