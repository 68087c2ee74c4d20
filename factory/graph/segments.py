"""Parts of networks between cut points, and networks put together from parts."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
from onnx import NodeProto

from ..errors import DataError
from .network import Array, Network, tensor_shapes


def segment(network: Network, start: str, stop: str) -> Network:
    """The part of a network that computes one tensor from another one.

    Args:
        network: Any network.
        start: Its input, or a cut point before ``stop``; it becomes the input.
        stop: A later cut point, or an output; it becomes the output.

    Raises:
        DataError: ``stop`` needs more than ``start``, or does not depend on it.
    """
    shapes = tensor_shapes(network)
    for name in (start, stop):
        if name not in shapes or name in network.weights:
            raise DataError(f"'{network.name}' has no tensor '{name}'.")
    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_nodes_from((start, stop))
    for node in network.nodes:
        if start not in node.output:
            flow.add_edges_from(
                (name, out)
                for name in node.input
                if name and name not in network.weights
                for out in node.output
            )
    needed = nx.ancestors(flow, stop) | {stop}
    if start not in needed or start == stop:
        raise DataError(f"'{stop}' does not depend on '{start}' in '{network.name}'.")
    strangers = [name for name in network.inputs if name in needed and name != start]
    if strangers:
        raise DataError(f"'{stop}' needs '{strangers[0]}' as well: '{start}' is no cut point.")
    nodes = tuple(
        node
        for node in network.nodes
        if needed.intersection(node.output) and start not in node.output
    )
    used = {name for node in nodes for name in node.input}
    return Network(
        name=f"{network.name}[{start}:{stop}]",
        nodes=nodes,
        weights={name: array for name, array in network.weights.items() if name in used},
        inputs={start: shapes[start]},
        outputs={stop: shapes[stop]},
    )


def chained(name: str, parts: Sequence[Network]) -> Network:
    """Networks one after the other: the output of each is the input of the next.

    Tensors are renamed to ``<position>/<name>``, but for the input of the first part and the
    outputs of the last one, which may have several; constants stay constants, ``/<position>/..``.

    Raises:
        DataError: A part does not have one input and, but for the last one, one output, or shapes
            do not fit.
    """
    nodes: list[NodeProto] = []
    weights: dict[str, Array] = {}
    before = ""
    for position, part in enumerate(parts):
        is_last = position == len(parts) - 1
        if len(part.inputs) != 1 or (len(part.outputs) != 1 and not is_last):
            raise DataError(f"'{part.name}' must have one input and one output to be chained.")
        ((entry, wanted),) = part.inputs.items()
        if position and wanted != (given := next(iter(parts[position - 1].outputs.values()))):
            raise DataError(f"'{part.name}' reads {wanted}, but what comes before gives {given}.")
        outside = {entry: before} if position else {entry: entry}
        if is_last:
            outside |= {out: out for out in part.outputs}
        nodes += [_renamed(node, position, outside) for node in part.nodes]
        weights |= {inside(position, key): array for key, array in part.weights.items()}
        before = inside(position, next(iter(part.outputs)))
    return Network(
        name=name, nodes=tuple(nodes), weights=weights, inputs=dict(parts[0].inputs),
        outputs=dict(parts[-1].outputs),
    )  # fmt: skip


def _renamed(node: NodeProto, position: int, outside: dict[str, str]) -> NodeProto:
    """A copy of the node with the position before all names but those of ``outside``."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = inside(position, node.name) if node.name else ""
    for names in (copy.input, copy.output):
        names[:] = [outside.get(name, inside(position, name)) if name else "" for name in names]
    return copy


def inside(position: int, name: str) -> str:
    """What :func:`chained` calls a tensor of the part at a position."""
    return f"/{position}{name}" if name.startswith("/") else f"{position}/{name}"
