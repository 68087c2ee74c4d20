"""A finished network as an ONNX file that says where it comes from, and what it costs."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..factory.schema import DeviceProfile, Estimate, Plan
from ..factory.units import MIB

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


def estimate_of(network: Network, model: bytes, profile: DeviceProfile) -> Estimate:
    """What a network costs; the latency is estimated for boards and measured on this machine."""
    from ..devices.predictor import predictor_for
    from ..factory.graph.costs import op_costs
    from ..factory.graph.network import tensor_shapes

    predictor = None if profile.name == "host" else predictor_for(profile.name)
    latency = None
    if predictor is not None:
        latency = predictor.predict_ms(op_costs(network, tensor_shapes(network)))
    counts = counts_of(network)
    return Estimate(
        latency_ms=latency, accuracy=None, mparams=counts["mparams"], mmacs=counts["mmacs"],
        memory_mib=counts["memory_mib"], file_mib=len(model) / MIB, runtime=profile.runtime,
        precision="fp32" if predictor is None else predictor.precision,
    )  # fmt: skip


def counts_of(network: Network) -> dict[str, float]:
    """What a network costs wherever it runs: "mparams", "mmacs" and "memory_mib"."""
    from ..factory.graph.costs import op_costs, parameter_count
    from ..factory.graph.memory import peak_bytes
    from ..factory.graph.network import tensor_shapes

    shapes = tensor_shapes(network)
    return {
        "mparams": parameter_count(network) / 1e6,
        "mmacs": sum(op.macs for op in op_costs(network, shapes)) / 1e6,
        "memory_mib": peak_bytes(network, shapes) / MIB,
    }
