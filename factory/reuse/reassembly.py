"""New networks from blocks of several donors: what they are worth, joined, and measured.

Source:
    Yang et al., "Deep Model Reassembly" (DeRy), arXiv:2210.17409. There candidates are ranked by
    a score of random networks (NASWOT) and joined by layers that are trained; here stitches are
    fitted by least squares, the choice is a proven optimum of what blocks and stitches are worth,
    and the best ones are ranked again by a classifier in closed form on their own features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ..datasets import Images
from ..errors import DataError
from ..graph.costs import op_costs, parameter_count
from ..graph.cut_points import cut_points
from ..graph.evaluate import open_model
from ..graph.network import Array, Network, model_from_network, tensor_shapes
from ..graph.segments import chained, segment
from .donor import Donor
from .features import representations
from .head import LinearHead, fit_linear_head, head_network
from .partition import Chain, Partition
from .search import Stages, Way
from .stitch import Stitch, fit_stitch, stitch_network

Report = Callable[[str, int, int], None]
LEAST_R2 = 1e-3  # what a stitch explains at least, for the logarithm
JOINT = (
    0.3  # accuracy per unit of that logarithm; single stitches of CIFAR ResNets lose 0.15 to 0.5
)


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
    classifier = max(
        i for i, node in enumerate(network.nodes) if node.op_type in ("Gemm", "Conv", "MatMul")
    )
    points = [
        (p.tensor, int(params[p.node]))
        for p in cut_points(network)
        if p.node < classifier and min(shapes[p.tensor][1:]) > 0
    ]
    if not points:
        raise DataError(f"'{donor.name}' cannot be taken apart: it has no cut point.")
    kept = {size: name for name, size in points}  # the last one of each
    return Places(
        donor=donor, tensors=(donor.input_name, *kept.values()),
        sizes=np.array([0, *kept], np.int64),
    )  # fmt: skip


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
        partition: How they are taken apart.
        stages: Values and costs for the search; budgets "mparams" and "mmacs".
        stitches: From block k of one donor to block k + 1 of another one, by (k, from, to).
    """

    places: tuple[Places, ...]
    partition: Partition
    stages: Stages
    stitches: Mapping[tuple[int, int, int], Stitch]

    def block(self, stage: int, donor: int) -> Network:
        """A block as a network."""
        place, cuts = self.places[donor], self.partition.cuts[donor]
        return segment(
            place.donor.network, place.tensors[cuts[stage]], place.tensors[cuts[stage + 1]]
        )


def pool_of(
    places: Sequence[Places], found: Partition, seen: Sequence[Mapping[str, Array]], labels: Array,
    *, report: Report = lambda phase, done, total: None,
) -> Pool:  # fmt: skip
    """Fit the stitches and value blocks.

    A block is worth what it adds to the left-out accuracy of a linear classifier on its output,
    over that of one on its input; a stitch costs the logarithm of what it explains.

    Args:
        places: Of every donor.
        found: The partition.
        seen: Per donor the representations of its tensors, rows of :func:`representations`.
        labels: Of the images, (N,).
        report: Called with ("stitches", done, total).
    """
    blocks, donors = len(found.anchors), len(places)
    classes = int(labels.max()) + 1
    value = np.zeros((blocks, donors))
    costs = {name: np.zeros((blocks, donors)) for name in ("mparams", "mmacs")}
    joint = {name: np.zeros((blocks - 1, donors, donors)) for name in ("value", "mparams", "mmacs")}
    stitches: dict[tuple[int, int, int], Stitch] = {}
    draft = Pool(
        places=tuple(places), partition=found, stitches=stitches,
        stages=Stages(
            value=value, joint_value=joint["value"], costs=costs,
            joint_costs={name: joint[name] for name in costs}, donors=np.arange(donors),
            is_allowed=np.ones((blocks, donors), bool),
        ),
    )  # fmt: skip
    for number, place in enumerate(places):
        reached = 1 / classes
        for stage in range(blocks):
            block = draft.block(stage, number)
            costs["mparams"][stage, number] = parameter_count(block) / 1e6
            costs["mmacs"][stage, number] = _mmacs(block)
            tensor = place.tensors[found.cuts[number][stage + 1]]
            accuracy = fit_linear_head(
                _means(seen[number][tensor], labels), labels, classes
            ).left_out
            value[stage, number] = accuracy - reached
            reached = accuracy
    total = (blocks - 1) * donors * (donors - 1)
    for stage in range(blocks - 1):
        for one in range(donors):
            for other in range(donors):
                if one == other:
                    continue
                stitch = _fitted(draft, seen, stage, one, other)
                stitches[stage, one, other] = stitch
                joint["value"][stage, one, other] = JOINT * np.log(max(stitch.r2, LEAST_R2))
                network = _joint(draft, stage, one, other)
                joint["mparams"][stage, one, other] = parameter_count(network) / 1e6
                joint["mmacs"][stage, one, other] = _mmacs(network)
                report("stitches", len(stitches), total)
    return draft


def _means(rows: Array, labels: Array) -> Array:
    """Mean features per image (N, C) from several rows an image."""
    return np.asarray(rows.reshape(len(labels), -1, rows.shape[1]).mean(1))


def _fitted(
    pool: Pool, seen: Sequence[Mapping[str, Array]], stage: int, one: int, other: int
) -> Stitch:
    source, target = (
        pool.places[donor].tensors[pool.partition.cuts[donor][stage + 1]] for donor in (one, other)
    )
    return fit_stitch(seen[one][source], seen[other][target])


def _joint(pool: Pool, stage: int, one: int, other: int) -> Network:
    """The stitch between two blocks as a network."""
    before = next(iter(pool.block(stage, one).outputs.values()))
    after = next(iter(pool.block(stage + 1, other).inputs.values()))
    return stitch_network(pool.stitches[stage, one, other], before, after)


def _mmacs(network: Network) -> float:
    return sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6


def assembled(
    pool: Pool, way: Way, seen: Sequence[Mapping[str, Array]] = (), pixels: Sequence[Array] = ()
) -> Network:
    """The body of a way: blocks and stitches in a row, up to the features.

    Without images stitches are those of the pool, fitted to what the donors alone make. With them
    each is fitted anew to what really comes out of the blocks and stitches before it, so that it
    takes back what they changed.

    Args:
        pool: Blocks and stitches.
        way: Which of them.
        seen: Per donor the representations of its tensors on the images.
        pixels: The images, (H, W, 3), uint8 RGB.
    """
    name = "+".join(pool.places[donor].donor.name for donor in way.blocks)
    first = pool.places[way.blocks[0]].donor
    parts, is_changed = [pool.block(0, way.blocks[0])], False
    for stage, (one, other) in enumerate(itertools.pairwise(way.blocks)):
        block = pool.block(stage + 1, other)
        if one != other or (is_changed and len(pixels)):
            stitch = pool.stitches.get((stage, one, other))
            if len(pixels):
                target = seen[other][next(iter(block.inputs))]
                stitch = fit_stitch(_made(chained(name, parts), first, pixels), target)
            if stitch is not None:
                before = next(iter(parts[-1].outputs.values()))
                parts.append(stitch_network(stitch, before, next(iter(block.inputs.values()))))
                is_changed = True
        parts.append(block)
    return chained(name, parts)


def _made(body: Network, donor: Donor, pixels: Sequence[Array]) -> Array:
    """Representation rows of what comes out of the beginning of a network."""
    (out,) = body.outputs
    return representations(replace(donor, network=body, labels=()), [out], pixels)[out]


def features_of(body: Network, donor: Donor, pixels: Sequence[Array]) -> Array:
    """Features (N, C) of images, means over space.

    Args:
        body: As :func:`assembled` gives it.
        donor: Whose first block it begins with: images are prepared as that one wants them.
        pixels: Images (H, W, 3), uint8 RGB.
    """
    run = open_model(model_from_network(body))
    ((entry,), (out,)) = body.inputs, body.outputs
    rows = [run({entry: donor.tensor(image)})[out][0] for image in pixels]
    return np.stack([row.mean((1, 2)) if row.ndim == 3 else row for row in rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reassembled:
    """A network with a classifier in closed form.

    Attributes:
        way: Its blocks.
        network: Whole.
        head: The classifier.
    """

    way: Way
    network: Network
    head: LinearHead


def with_head(
    pool: Pool, way: Way, images: Images, seen: Sequence[Mapping[str, Array]] = ()
) -> Reassembled:
    """Fit the stitches (given representations of the images) and the classifier of a way.

    The ``left_out`` of the classifier ranks ways.
    """
    body = assembled(pool, way, seen, list(images.pixels) if seen else ())
    donor = pool.places[way.blocks[0]].donor
    found = features_of(body, donor, list(images.pixels))
    head = fit_linear_head(found, images.labels, int(images.labels.max()) + 1)
    last = head_network(head, next(iter(body.outputs.values())))
    return Reassembled(way=way, network=chained(body.name, [body, last]), head=head)
