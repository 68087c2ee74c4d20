"""A pool of donors: where they can be taken apart, their blocks, the stitches between them.

Source:
    Yang et al., "Deep Model Reassembly" (DeRy), arXiv:2210.17409. There joining layers are trained
    and candidates ranked by a score of random networks; here stitches are fitted by least squares,
    and what blocks and stitches are worth is measured on images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ..errors import DataError
from ..graph.costs import op_costs, parameter_count
from ..graph.cut_points import cut_points
from ..graph.memory import peak_bytes
from ..graph.network import Array, Network, tensor_shapes
from ..graph.segments import chained, segment
from ..units import MIB
from .donor import Donor
from .head import empty_head, fit_linear_head, head_network
from .partition import Chain, Partition
from .search import Stages
from .stitch import Stitch, fit_stitch, stitch_network

Report = Callable[[str, int, int], None]
Rows = Mapping[str, Array]  # per tensor what :func:`representations` gives
LEAST_R2 = 1e-3  # what a stitch explains at least, for the logarithm
JOINT = 0.5  # accuracy per unit of that logarithm: ranks 40 random CIFAR ways best, as do 0.3 to 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Where a donor can be taken apart: its image, its cut points, what its classifier reads.

    Attributes:
        donor: The network.
        tensors: From the image to the features before the classifier.
        sizes: Parameters before each, rising from 0.
    """

    donor: Donor
    tensors: tuple[str, ...]
    sizes: Array


def places_of(donor: Donor) -> Places:
    """The image, all cut points of different content, and the features of a donor.

    Of cut points between which there are no weights only the last one counts.

    Raises:
        DataError: The donor has no cut point, or several outputs.
    """
    network = donor.network
    if len(network.outputs) != 1:
        raise DataError(f"'{donor.name}' has several outputs; reassembly is for classification.")
    shapes = tensor_shapes(network)
    params = np.cumsum([parameter_count(_layer(network, node)) for node in network.nodes])
    layers = ("Gemm", "Conv", "MatMul")
    classifier = max((i for i, n in enumerate(network.nodes) if n.op_type in layers), default=-1)
    points = [
        (p.tensor, int(params[p.node]))
        for p in cut_points(network)
        if p.node < classifier and _is_of_images(shapes[p.tensor])
    ]
    if not points:
        raise DataError(f"'{donor.name}' cannot be taken apart: it has no cut point.")
    kept = {size: name for name, size in points}  # the last one of each
    return Places(
        donor=donor, tensors=(donor.input_name, *kept.values()),
        sizes=np.array([0, *kept], np.int64),
    )  # fmt: skip


def _is_of_images(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a map or a vector of one image."""
    return shape[0] == 1 and len(shape) in (2, 4) and min(shape[1:]) > 0


def _layer(network: Network, node: NodeProto) -> Network:
    """One node with its weights."""
    weights = {name: network.weights[name] for name in node.input if name in network.weights}
    return replace(network, nodes=(node,), weights=weights)


def chains_of(places: Sequence[Places]) -> list[Chain]:
    """The donors as :func:`partition` wants them; rows count on over all donors, images left out.

    What goes into the first block is the image, the same for all: its row is that of the image of
    the first donor.
    """
    chains, start = [], 1
    for place in places:
        rows = np.array([0, *range(start, start + len(place.tensors) - 1)], np.int64)
        start += len(place.tensors) - 1
        chains.append(Chain(name=place.donor.name, rows=rows, sizes=place.sizes))
    return chains


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Blocks of donors, the stitches between them, and what both are worth.

    Attributes:
        places: Of every donor.
        blocks: Per stage and donor the block as a network.
        stitches: From block k of one donor to block k + 1 of another one, by (k, from, to); none
            to or from vectors.
        stages: Values and costs for the search; budgets "mparams", "mmacs", "memory_mib" and,
            where somebody measured it, "latency_ms". Normalization of the image and the classifier
            are counted with the blocks that they belong to, a call with the first one. Memory and
            latency of whole donors are their own, where that is less; of other ways memory is an
            upper bound, since runtimes reuse room across borders, and latency a sum.
    """

    places: tuple[Places, ...]
    blocks: tuple[tuple[Network, ...], ...]
    stitches: Mapping[tuple[int, int, int], Stitch]
    stages: Stages


def pool_of(
    places: Sequence[Places], found: Partition, seen: Sequence[Rows], labels: Array, *,
    latency_ms: Callable[[Network], float] | None = None, call_ms: float = 0.0,
    report: Report = lambda phase, done, total: None,
) -> Pool:  # fmt: skip
    """Cut the blocks out, fit the stitches and value both.

    A block is worth what it adds to the left-out accuracy of a linear classifier on its output,
    over that of one on its input; a stitch costs the logarithm of what it explains.

    Args:
        places: Of every donor.
        found: The partition.
        seen: Per donor the representations of its tensors.
        labels: Of the images, (N,).
        latency_ms: Of a network; where it is given, there is a budget "latency_ms".
        call_ms: What a call costs whatever is computed.
        report: Called with ("stitches", done, total).
    """
    blocks = tuple(
        tuple(
            segment(place.donor.network, place.tensors[cuts[stage]], place.tensors[cuts[stage + 1]])
            for place, cuts in zip(places, found.cuts, strict=True)
        )
        for stage in range(len(found.anchors))
    )
    stitches = _stitches(blocks, seen, report)
    classes = int(labels.max()) + 1
    measures = {**_COSTS, **({} if latency_ms is None else {"latency_ms": latency_ms})}
    joint_shape = (len(blocks) - 1, len(places), len(places))
    joint_value = np.where(np.eye(len(places), dtype=bool), 0.0, -np.inf) * np.ones(joint_shape)
    joints = {name: np.zeros(joint_shape) for name in (*measures, *_PEAKS)}
    for (stage, one, other), stitch in stitches.items():
        joint_value[stage, one, other] = JOINT * np.log(max(stitch.r2, LEAST_R2))
        network = between(stitch, blocks[stage][one], blocks[stage + 1][other])
        for name, cost in {**measures, **_PEAKS}.items():
            joints[name][stage, one, other] = cost(network)
    whole = [
        [_with_ends(blocks, stage, place.donor, block, classes) for place, block in pairs]
        for stage, pairs in enumerate(zip(places, row, strict=True) for row in blocks)
    ]
    own = {
        name: np.array([[cost(block) for block in row] for row in whole])
        for name, cost in {**measures, **_PEAKS}.items()
    }
    donors = [chained("whole", [row[d] for row in whole]) for d in range(len(places))]
    known = {"memory_mib": np.array([_activations_mib(d) + _weights_mib(d) for d in donors])}
    if latency_ms is not None:
        own["latency_ms"][0] += call_ms
        alone = call_ms + np.array([latency_ms(donor) for donor in donors])
        known["latency_ms"] = np.minimum(alone, own["latency_ms"].sum(0))
    return Pool(
        places=tuple(places), blocks=blocks, stitches=stitches,
        stages=Stages(
            value=_values(blocks, seen, labels), joint_value=joint_value,
            whole=known,
            costs={name: own[name] for name in measures},
            joint_costs={name: joints[name] for name in measures},
            peaks={"memory_mib": own[_PEAK]}, joint_peaks={"memory_mib": joints[_PEAK]},
            donors=np.arange(len(places)),
            is_allowed=np.ones((len(blocks), len(places)), bool),
        ),
    )  # fmt: skip


def _with_ends(
    blocks: Sequence[Sequence[Network]], stage: int, donor: Donor, block: Network, classes: int
) -> Network:
    """A block with what it brings along: the first one normalization, the last one a classifier."""
    parts = [block]
    if stage == 0:
        parts.insert(0, donor.entry())
    if stage == len(blocks) - 1:
        (shape,) = block.outputs.values()
        parts.append(head_network(empty_head(shape[1], classes), shape))
    return chained(block.name, parts) if len(parts) > 1 else block


def between(stitch: Stitch, one: Network, other: Network) -> Network:
    """A stitch from the output of a network to the input of another one."""
    (before,), (after,) = one.outputs.values(), other.inputs.values()
    return stitch_network(stitch, before, after)


def _mmacs(network: Network) -> float:
    return sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6


def _weights_mib(network: Network) -> float:
    return sum(array.nbytes for array in network.weights.values()) / MIB


def _activations_mib(network: Network) -> float:
    return peak_bytes(network, tensor_shapes(network)) / MIB - _weights_mib(network)


_PEAK = "activations_mib"
_PEAKS: Mapping[str, Callable[[Network], float]] = {_PEAK: _activations_mib}
_COSTS: Mapping[str, Callable[[Network], float]] = {
    "mparams": lambda network: parameter_count(network) / 1e6, "mmacs": _mmacs,
    "memory_mib": _weights_mib,
}  # fmt: skip


def _stitches(
    blocks: Sequence[Sequence[Network]], seen: Sequence[Rows], report: Report
) -> dict[tuple[int, int, int], Stitch]:
    """From every block to those of other donors at the next stage, where both are maps."""
    donors = range(len(seen))
    pairs = [
        (stage, one, other)
        for stage in range(len(blocks) - 1)
        for one in donors
        for other in donors
        if one != other
    ]
    found = {}
    for stage, one, other in pairs:
        ((source, before),) = blocks[stage][one].outputs.items()
        ((target, after),) = blocks[stage + 1][other].inputs.items()
        if len(before) == len(after) == 4:
            found[stage, one, other] = fit_stitch(seen[one][source], seen[other][target])
        report("stitches", len(found), len(pairs))
    return found


def _values(blocks: Sequence[Sequence[Network]], seen: Sequence[Rows], labels: Array) -> Array:
    """What every block adds to the left-out accuracy of a linear classifier, (K, N)."""
    classes = int(labels.max()) + 1
    reached = np.full((len(blocks) + 1, len(seen)), 1 / classes)
    for stage, row in enumerate(blocks, 1):
        for donor, block in enumerate(row):
            (tensor,) = block.outputs
            rows = seen[donor][tensor]
            means = rows.reshape(len(labels), -1, rows.shape[1]).mean(1)
            reached[stage, donor] = fit_linear_head(means, labels, classes).left_out
    return np.asarray(np.diff(reached, axis=0))
