"""Tensors through which everything flows: where a network may be taken apart."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

from ..errors import DataError
from .costs import op_costs
from .network import Network, names_read, tensor_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPoint:
    """A tensor that separates a network into a part before and a part after it.

    Attributes:
        tensor: Its name.
        shape: (1, C, H, W) or (1, F).
        node: Position of the node that makes it.
        depth: Share of the multiply-adds before it, in [0, 1].
    """

    tensor: str
    shape: tuple[int, ...]
    node: int
    depth: float


def cut_points(network: Network) -> list[CutPoint]:
    """All tensors that every path from the input to any output goes through, in order.

    Of several outputs only what comes before they part counts. Neither the input nor an output is
    a cut point.

    Args:
        network: With one input.

    Raises:
        DataError: It has several inputs.
    """
    if len(network.inputs) != 1:
        raise DataError(
            f"'{network.name}' has {len(network.inputs)} inputs; cut points need one.",
        )
    (source,) = network.inputs
    flow: nx.DiGraph[object] = nx.DiGraph()
    sink = object()
    for node in network.nodes:
        for name in names_read(node):
            if name not in network.weights:
                flow.add_edges_from((name, out) for out in node.output if out)
    flow.add_edges_from((name, sink) for name in network.outputs)
    if source not in flow or not nx.has_path(flow, source, sink):
        return []
    dominators = nx.immediate_dominators(flow, source)
    chain = []
    place: object = sink
    while (place := dominators[place]) != source:
        chain.append(str(place))
    shapes = tensor_shapes(network)
    made = {name: at for at, node in enumerate(network.nodes) for name in node.output}
    macs = [row.macs for row in op_costs(network, shapes)]
    total = max(1, sum(macs))
    return [
        CutPoint(
            tensor=name, shape=shapes[name], node=made[name],
            depth=sum(macs[: made[name] + 1]) / total,
        )
        for name in reversed(chain)
        if name not in network.outputs
    ]  # fmt: skip
