"""Latency of cut networks: a sum over layers, each measured by itself at all widths it may have.

Runtimes compute channels in blocks, so a layer of 17 channels may take as long as one of 32, and
longer than one of 16. Neither lines between a few widths nor products of widths tell that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from ...graph.network import Array, Network, attribute, tensor_shapes
from .costs import LEVELS, Costs, Pair, Report, gone_of, left_of, sizes_of, without
from .families import Anatomy, input_axis, narrowed

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
MEASURED = (1, 2, 4)  # eighths of all families, of whole networks that are measured


@dataclass(frozen=True, slots=True, eq=False)
class _Gone:
    """What a layer lacks of a family, by size: it is measured without some channels, and what that
    saves counts some times.
    """  # noqa: D205

    channels: Array
    times: Array


_NOTHING = _Gone(np.zeros(1, int), np.ones(1))
Latency = Callable[[Network], float]


def timed(
    anatomy: Anatomy, latency_ms: Latency, layer_ms: Latency, *,
    report: Report = lambda phase, done, total: None,
) -> Costs:  # fmt: skip
    """Latency of cut networks, as a table.

    A layer between two families is measured at every pair of their sizes. Where several families
    are joined on a side of a layer, what they save there is a line in the number of their channels.
    What layers save is scaled by one number to what whole networks do, of which all families are
    smaller.

    Args:
        anatomy: The network.
        latency_ms: Milliseconds of a whole network.
        layer_ms: Of a network that is a single layer, the call left out.
        report: Called with ("latency", done, total).
    """
    layers = _of_layers(anatomy, layer_ms, report)
    whole, seen, said = latency_ms(anatomy.network), [], []
    for level in MEASURED:
        sizes = {f.name: max(1, round(len(f.groups) * level / LEVELS)) for f in anatomy.families}
        network, _ = narrowed(anatomy, {name: range(size) for name, size in sizes.items()})
        seen.append(whole - latency_ms(network))
        said.append(layers.whole - left_of(anatomy, layers, sizes))
    scale = max(0.0, float(np.dot(seen, said) / max(np.dot(said, said), 1e-12)))
    return Costs(
        whole=whole, saved={name: scale * rows for name, rows in layers.saved.items()},
        overlaps={pair: scale * both for pair, both in layers.overlaps.items()},
    )  # fmt: skip


def _of_layers(anatomy: Anatomy, layer_ms: Latency, report: Report) -> Costs:
    """What layers that change take by themselves, and what families save of it."""
    saved = {family.name: np.zeros(len(sizes_of(family))) for family in anatomy.families}
    overlaps: dict[Pair, Array] = {}
    total, ends, widths = 0.0, _left_out(anatomy), _Widths(layer_ms)
    layers = [
        layer for layer in _layers(anatomy)
        if layer.reads or layer.writes or layer.node.name in ends
    ]  # fmt: skip
    for done, layer in enumerate(layers):
        report("latency", done, len(layers))
        whole = widths.ms(layer, 0, 0)
        total += whole
        reads = {
            name: gone.times * (whole - widths.table(layer, gone, _NOTHING)[:, 0])
            for name, gone in layer.reads.items()
        }
        writes = {
            name: gone.times * (whole - widths.table(layer, _NOTHING, gone)[0])
            for name, gone in layer.writes.items()
        }
        for name, less in (*reads.items(), *writes.items()):
            saved[name] += less
        for (one, read), (other, written) in itertools.product(
            layer.reads.items(), layer.writes.items()
        ):
            twice = np.outer(read.times, written.times) * widths.twice(layer, read, written)
            overlaps[one, other] = overlaps.get((one, other), 0.0) + twice
        for name in ends.get(layer.node.name, ()):
            if name not in layer.reads and name not in layer.writes:
                saved[name][0] += whole
                for other, less in (*reads.items(), *writes.items()):
                    both = overlaps.setdefault(
                        (name, other), np.zeros((len(saved[name]), len(less)))
                    )
                    both[0] += less  # of a layer that is gone nothing more is saved
    return Costs(whole=total, saved=saved, overlaps=overlaps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """A layer with weights.

    Attributes:
        node: The layer.
        axis: Of its weight, that goes over its inputs.
        inputs: Channels that it reads; of one whose channels come in groups those that it writes.
        outputs: Channels that it writes.
        sides: Of its input, and of its output: (H, W), or () of vectors.
        weight: Shape.
        reads: Of its inputs.
        writes: Of its outputs.
    """

    node: NodeProto
    axis: int
    inputs: int
    outputs: int
    sides: tuple[tuple[int, ...], tuple[int, ...]]
    weight: tuple[int, ...]
    reads: Mapping[str, _Gone]
    writes: Mapping[str, _Gone]


def _layers(anatomy: Anatomy) -> Iterator[_Layer]:
    """All layers with weights."""
    network, shapes = anatomy.network, tensor_shapes(anatomy.network)
    for node in network.nodes:
        if node.op_type not in WEIGHTED or node.input[1] not in network.weights:
            continue
        weight = network.weights[node.input[1]].shape
        axis = 0 if node.op_type == "ConvTranspose" else input_axis(node)
        is_mixing = attribute(node, "group", 1) == 1
        sides = shapes[node.input[0]][2:], shapes[node.output[0]][2:]
        yield _Layer(
            node=node, axis=axis, inputs=weight[axis] if is_mixing else weight[0],
            outputs=weight[1 - axis], sides=sides, weight=weight,
            reads=_gone(anatomy, node.input[1], axis) if is_mixing else {},
            writes=_gone(anatomy, node.input[1], 1 - axis),
        )  # fmt: skip


def _gone(anatomy: Anatomy, weight: str, axis: int) -> dict[str, _Gone]:
    """Of the families along an axis of a weight: what is gone of them."""
    groups = anatomy.found.weights.get((weight, axis))
    if groups is None:
        return {}
    counts = {f.name: int(np.isin(groups, f.groups).sum()) for f in anatomy.families}
    joined = sum(count > 0 for count in counts.values()) > 1
    half = max(1, sum(counts.values()) // 2)
    found = {}
    for family in anatomy.families:
        gone = np.round(counts[family.name] * gone_of(family)).astype(int)
        if joined and counts[family.name]:
            found[family.name] = _Gone(np.full(len(gone), half), gone / half)
        elif counts[family.name]:
            found[family.name] = _Gone(gone, np.ones(len(gone)))
    return found


def _left_out(anatomy: Anatomy) -> dict[str, list[str]]:
    """Of layers that go when a branch does the families that are all of one."""
    found: dict[str, list[str]] = {}
    for family in anatomy.families:
        if family.branch:
            for name in without(anatomy, family):
                found.setdefault(name, []).append(family.name)
    return found


class _Widths:
    """What layers take at widths, each measured once."""

    def __init__(self, layer_ms: Latency) -> None:
        self._layer_ms = layer_ms
        self._known: dict[tuple[object, ...], float] = {}

    def table(self, layer: _Layer, reads: _Gone, writes: _Gone) -> Array:
        """Milliseconds with some channels gone on either side: rows of what is read."""
        return np.array(
            [[self.ms(layer, int(r), int(w)) for w in writes.channels] for r in reads.channels]
        )

    def twice(self, layer: _Layer, reads: _Gone, writes: _Gone) -> Array:
        """What both sides save, counted for each, less what they save together."""
        both = self.table(layer, reads, writes)
        row, column = self.table(layer, reads, _NOTHING), self.table(layer, _NOTHING, writes)
        return np.asarray(both - row - column + self.ms(layer, 0, 0))

    def ms(self, layer: _Layer, read: int, written: int) -> float:
        """Milliseconds with so many channels gone on either side; 0 where none are left."""
        outputs = layer.outputs - written
        is_mixing = attribute(layer.node, "group", 1) == 1
        inputs = layer.inputs - read if is_mixing else outputs
        if not inputs or not outputs:
            return 0.0
        said = tuple(sorted(each.SerializeToString() for each in layer.node.attribute))
        of_groups = () if is_mixing else layer.weight[:2]
        key = (
            layer.node.op_type, said, layer.sides, of_groups, layer.weight[2:], inputs, outputs,
        )  # fmt: skip
        if key not in self._known:
            self._known[key] = self._layer_ms(_alone(layer, inputs, outputs))
        return self._known[key]


def _alone(layer: _Layer, inputs: int, outputs: int) -> Network:
    """A network of one layer with other widths."""
    node = NodeProto()
    node.CopyFrom(layer.node)
    del node.input[:], node.output[:]
    node.input.extend(["x", "w", "b"][: len(layer.node.input)])
    node.output.append("y")
    depth, group = inputs, attribute(node, "group", 1)
    if group != 1:
        wide, depth = layer.weight[0] // group, layer.weight[1]  # of a group
        group = max(1, round(outputs / wide))
        inputs, outputs = group * depth, group * wide
        (said,) = (each for each in node.attribute if each.name == "group")
        said.CopyFrom(helper.make_attribute("group", group))
    shape = (outputs, depth) if layer.axis == 1 else (depth, outputs)
    weights = {
        "w": np.full((*shape, *layer.weight[2:]), 0.01, np.float32),
        "b": np.zeros(outputs, np.float32),
    }
    before, after = layer.sides
    return Network(
        name="layer", nodes=(node,), weights={n: weights[n] for n in node.input[1:]},
        inputs={"x": (1, inputs, *before)}, outputs={"y": (1, outputs, *after)},
    )  # fmt: skip
