"""Exact cost of every choice that no device changes: parameters, multiply-adds, peak memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from ..graph.costs import op_costs, parameter_count
from ..graph.cut import cut
from ..graph.memory import activation_bytes, live_buffers
from ..graph.network import Network, model_from_network, tensor_shapes
from ..graph.normalization import fold_norms
from ..graph.postprocess import with_detections, with_probabilities
from ..library.library import ModuleLibrary
from ..schema import Slot
from ..units import MIB

_PER = 1_000_000
Counts = Mapping[str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Footprint:
    """Cost of a library's choices, as integers; ``fixed`` parts hold what is never cut.

    Attributes:
        params: Per slot the parameters of 0, 1, .. active modules.
        fixed_params: Parameters of stem, stream and heads.
        macs: Per slot the multiply-adds of 0, 1, .. active modules.
        fixed_macs: Multiply-adds of stem, stream and heads.
        table_bytes: Constants of the answer (anchors and the like).
        modules: Per slot the parameters of one module.
        file_bytes: Per slot the bytes in the ONNX file of 0, 1, .. active modules.
        fixed_file_bytes: The rest of the file, without the metadata of a task.
        library: What it is the footprint of.
        whole: Its network with the answer; the weights have their shapes alone.
        shapes: Of the network's tensors.
    """

    params: Mapping[str, tuple[int, ...]]
    fixed_params: int
    macs: Mapping[str, tuple[int, ...]]
    fixed_macs: int
    table_bytes: int
    modules: Mapping[str, int]
    file_bytes: Mapping[str, tuple[int, ...]]
    fixed_file_bytes: int
    library: ModuleLibrary
    whole: Network
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def live_bytes(self) -> Mapping[str, tuple[int, ...]]:
        """Per block slot the largest sum of live activations while it runs."""
        return self._live[0]

    @property
    def fixed_live_bytes(self) -> int:
        """The same outside all block slots."""
        return self._live[1]

    @cached_property
    def _live(self) -> tuple[dict[str, tuple[int, ...]], int]:
        """Found when it is asked for: it takes longer than all the rest."""
        return _live_bytes(self.whole, self.shapes, self.library)

    def total_params(self, counts: Counts) -> int:
        """Parameters of a plan; ``counts`` has every slot, the classes included."""
        return self.fixed_params + sum(self.params[s][k] for s, k in counts.items())

    def total_macs(self, counts: Counts) -> int:
        """Multiply-adds of a plan."""
        return self.fixed_macs + sum(self.macs[s][k] for s, k in counts.items())

    def peak_bytes(self, counts: Counts) -> int:
        """Weights plus the largest sum of live activations."""
        live = max(self.live_bytes[s][k] for s, k in counts.items() if s in self.live_bytes)
        weights = 4 * self.total_params(counts) + self.table_bytes
        return weights + max(live, self.fixed_live_bytes)

    def peak_mib(self, counts: Counts) -> float:
        """:meth:`peak_bytes` in MiB."""
        return self.peak_bytes(counts) / MIB

    def total_file_bytes(self, counts: Counts, classes: Sequence[str]) -> int:
        """Size of the ONNX file of a plan, with room for metadata that name the classes."""
        metadata = 2048 + sum(len(name.encode()) + 16 for name in classes)
        return (
            self.fixed_file_bytes + metadata + sum(self.file_bytes[s][k] for s, k in counts.items())
        )

    def sparsity(self, counts: Counts) -> float:
        """Share of the parameters owned by modules that the plan leaves out, in [0, 1)."""
        total = sum(self.modules[s] * (len(self.params[s]) - 1) for s in self.modules)
        return 1 - sum(self.modules[s] * k for s, k in counts.items()) / total


def narrowed_shapes(
    shapes: Mapping[str, tuple[int, ...]], network: Network, slot: Slot, count: int
) -> dict[str, tuple[int, ...]]:
    """Shapes with only ``count`` modules of a slot active; ``network`` is the whole one."""
    result = dict(shapes)
    for name in slot.gated:
        if name in shapes:
            shape = shapes[name]
            result[name] = (shape[0], shape[1] * count // slot.groups, *shape[2:])
    for module in slot.modules[:1]:
        for owned in module.owns:
            if owned.tensor in shapes:
                full = list(shapes[owned.tensor])
                full[owned.axis] = full[owned.axis] * count // slot.groups
                result[owned.tensor] = tuple(full)
    return result


@lru_cache(maxsize=16)
def footprint(library: ModuleLibrary) -> Footprint:
    """The footprint of a library; computed once."""
    folded = fold_norms(library.network)
    answer = (
        with_probabilities(folded)
        if library.kind == "cls"
        else with_detections(folded, library.head_strides, library.input_size)
    )
    shapes = tensor_shapes(answer)
    total_macs = sum(row.macs for row in op_costs(answer, shapes))
    params: dict[str, tuple[int, ...]] = {}
    macs: dict[str, tuple[int, ...]] = {}
    for slot in library.slots:
        size = round(slot.modules[0].mparams * _PER)
        work = round(slot.modules[0].mmacs * _PER)
        params[slot.name] = tuple(
            count * size + (slot.block_params if count else 0) for count in range(slot.groups + 1)
        )
        macs[slot.name] = tuple(count * work for count in range(slot.groups + 1))
    weights = sum(array.nbytes for array in answer.weights.values())
    total_params = parameter_count(folded)
    file_bytes = {slot.name: _file_bytes(answer, slot, params[slot.name]) for slot in library.slots}
    whole_file = len(model_from_network(answer).SerializeToString())
    return Footprint(
        params=params,
        fixed_params=total_params - sum(row[-1] for row in params.values()),
        macs=macs,
        fixed_macs=total_macs - sum(row[-1] for row in macs.values()),
        table_bytes=weights - 4 * total_params,
        modules={slot.name: round(slot.modules[0].mparams * _PER) for slot in library.slots},
        file_bytes=file_bytes,
        fixed_file_bytes=whole_file - sum(row[-1] for row in file_bytes.values()),
        library=library,
        whole=_hollow(answer),
        shapes=shapes,
    )


def _hollow(network: Network) -> Network:
    """The network with weights that are zero and take no memory."""
    weights = {
        n: np.broadcast_to(np.zeros((), a.dtype), a.shape) for n, a in network.weights.items()
    }
    return replace(network, weights=weights)


def _file_bytes(network: Network, slot: Slot, params: tuple[int, ...]) -> tuple[int, ...]:
    """Bytes of the weights and, where any module runs, of the nodes and names of a slot.

    The layers of the classes are always there, so only their weights count.
    """
    if slot.kind == "classes":
        return tuple(4 * count for count in params)
    nodes = [node for node in network.nodes if node.name in slot.nodes]
    weights = {name for node in nodes for name in node.input if name in network.weights}
    frame = sum(node.ByteSize() for node in nodes)
    frame += sum(len(name) + len(str(network.weights[name].shape)) for name in weights)
    return tuple(4 * count + (frame if count else 0) for count in params)


def _live_bytes(
    network: Network, shapes: Mapping[str, tuple[int, ...]], library: ModuleLibrary
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Per block slot and count, and outside the blocks, the largest sum of live activations.

    A node outside a block whose sum is smaller without the block counts with it: the shortcut of
    a block that runs finds the input of the block still alive. The tensors of the classes are
    counted at full size: they are small.
    """
    rows = live_buffers(network, shapes)
    owner = {name: slot for slot in library.blocks for name in slot.nodes}
    running = {
        name: [live for node, live in zip(network.nodes, rows, strict=True) if node.name in nodes]
        for name, nodes in ((slot.name, set(slot.nodes)) for slot in library.blocks)
    }
    outside = {
        node.name: activation_bytes(live, shapes)
        for node, live in zip(network.nodes, rows, strict=True)
        if node.name not in owner
    }
    result, fixed = {}, dict(outside)
    for slot in library.blocks:
        skipped = cut(network, [slot], {slot.name: ()})
        without = {
            node.name: activation_bytes(live, shapes)
            for node, live in zip(skipped.nodes, live_buffers(skipped, shapes), strict=True)
            if node.name in outside
        }
        freed = [name for name, size in without.items() if size < outside[name]]
        sizes = []
        for count in range(slot.groups + 1):
            narrow = narrowed_shapes(shapes, network, slot, count)
            sizes.append(max(activation_bytes(live, narrow) for live in running[slot.name]))
        sizes = [max([size, *(outside[name] for name in freed)]) for size in sizes]
        if slot.min_groups == 0:
            sizes[0] = max((without[name] for name in freed), default=0)
        result[slot.name] = tuple(sizes)
        fixed = {name: size for name, size in fixed.items() if name not in freed}
    return result, max(fixed.values())


def full_counts(library: ModuleLibrary) -> dict[str, int]:
    """Every module of every block."""
    return {slot.name: slot.groups for slot in library.blocks}


def empty_counts(library: ModuleLibrary) -> dict[str, int]:
    """The least number of modules of every block."""
    return {slot.name: slot.min_groups for slot in library.blocks}
