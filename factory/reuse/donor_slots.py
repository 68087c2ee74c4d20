"""An imported classifier as slots of modules: channels that can be left out at a cost that adds up.

A slot is a family of channels inside the network, such as those between the two convolutions of a
residual block. What a layer costs is a product of its inputs and outputs, so of two families that
meet in a layer only one becomes a slot; the streams between blocks stay whole, as in our own
libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import helper
from scipy.optimize import Bounds, LinearConstraint, milp

from ..errors import DataError, VerificationError
from ..graph.costs import op_costs, parameter_count
from ..graph.coupling import Coupling, coupling
from ..graph.cut import cut, mask
from ..graph.evaluate import open_model, run_network
from ..graph.half import rounded
from ..graph.network import Array, Network, attribute, model_from_network, tensor_shapes
from ..graph.normalization import norm_nodes
from ..graph.own_weights import named_by_output
from ..graph.segments import chained
from ..linker import proof_inputs
from ..quiet import silenced
from ..schema import Module, OwnedRange, Slot
from .donor import Donor

ENDS = ("Softmax", "Reshape", "Flatten", "Squeeze", "Identity")  # that may follow the logits
GROUPS = 8  # modules of a slot, at most
TOLERANCE = 1e-4  # between a slot that is cut and one that is zeroed, of the greatest logit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Family:
    """Channels that go together: (weight, axis) pairs along which they lie, and their tensors."""

    axes: tuple[tuple[str, int], ...]
    tensors: tuple[str, ...]
    gated: str
    channels: int


def library_network(donor: Donor, outputs: Sequence[int]) -> Network:
    """The network of :func:`task_network` with weights that half precision holds.

    Args:
        donor: A classifier that ends in a linear layer.
        outputs: Positions of the classes among its outputs.

    Raises:
        DataError: It ends otherwise, or holds a normalization that cannot be folded.
    """
    return rounded(task_network(donor, outputs))


def task_network(donor: Donor, outputs: Sequence[int]) -> Network:
    """A donor that reads "images", RGB in [0, 1], and gives logits of some of its outputs.

    Args:
        donor: A classifier that ends in a linear layer.
        outputs: Positions of the classes among its outputs.

    Raises:
        DataError: It ends otherwise, or holds a normalization that cannot be folded.
    """
    network = _ending_in_gemm(donor)
    if norm_nodes(network):
        raise DataError(f"'{donor.name}' holds normalization that does not follow a convolution.")
    last = network.nodes[-1]
    weights = dict(network.weights)
    for name in last.input[1:]:
        weights[name] = weights[name][list(outputs)]
    (logits,) = network.outputs
    network = replace(network, weights=weights, outputs={logits: (1, len(outputs))})
    whole = chained(donor.name, [donor.entry(), network])
    whole = replace(whole, nodes=tuple(map(named_by_output, whole.nodes)))
    _check_answers(donor, whole, logits, outputs)
    return whole


def _check_answers(donor: Donor, network: Network, logits: str, outputs: Sequence[int]) -> None:
    """Raise unless the network gives what the donor does at its logits, on one image.

    Raises:
        VerificationError: It does not.
    """
    pixels = np.rint(proof_inputs(donor.input_size)[0, 0].transpose(1, 2, 0) * 255)
    shapes = tensor_shapes(donor.network)
    tapped = replace(donor.network, outputs={logits: shapes[logits]})
    image = pixels.astype(np.uint8)
    expected = run_network(tapped, {donor.input_name: donor.tensor(image)})[logits]
    planes = image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    (found,) = run_network(network, {"images": planes}).values()
    wanted = expected.reshape(1, -1)[:, list(outputs)]
    worst = float(np.abs(found - wanted).max())
    if not worst <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise VerificationError(f"The library would differ from '{donor.name}' by {worst:.2e}.")


def _ending_in_gemm(donor: Donor) -> Network:
    """The network up to its logits, made by a linear layer with rows of classes.

    Raises:
        DataError: It does not end in one.
    """
    network, nodes = donor.network, list(donor.network.nodes)
    error = DataError(f"'{donor.name}' does not end in a linear layer of its classes.")
    if len(network.outputs) != 1:
        raise DataError(
            f"'{donor.name}' has several outputs, as detectors have; classifiers have one.",
            hints=["import a detector with a card that has a [head]: docs/disassembly.md"],
        )
    (out,) = network.outputs
    shapes = tensor_shapes(network)
    while nodes and nodes[-1].op_type in ENDS:
        out = nodes.pop().input[0]
    last = nodes[-1] if nodes else None
    if last is None or last.output[0] != out or len(last.input) < 2:
        raise error
    weight = network.weights.get(last.input[1])
    if weight is None:
        raise error
    source = last.input[0]
    bias = network.weights.get(last.input[2]) if len(last.input) > 2 else None
    alpha, beta = (attribute(last, name, 1.0) for name in ("alpha", "beta"))
    if last.op_type == "Conv" and weight.shape[2:] == (1, 1) and shapes[source][2:] == (1, 1):
        nodes[-1:] = [
            helper.make_node("Flatten", [source], [f"{source}.flat"], axis=1),
            helper.make_node("Gemm", [f"{source}.flat", *last.input[1:]], [out], transB=1),
        ]
        weight = weight[:, :, 0, 0]
    elif last.op_type == "Gemm" and not attribute(last, "transA", 0):
        weight = weight if attribute(last, "transB", 0) else weight.T
        nodes[-1] = helper.make_node("Gemm", list(last.input), [out], transB=1)
    else:
        raise error
    rows = np.ascontiguousarray(alpha * weight, np.float32)
    weights = {**network.weights, last.input[1]: rows}
    if len(last.input) > 2 and bias is None:
        raise error
    if bias is not None:
        whole = np.broadcast_to(beta * bias.reshape(-1), len(weight))
        weights[last.input[2]] = np.ascontiguousarray(whole, np.float32)
    return replace(network, nodes=tuple(nodes), weights=weights, outputs={out: (1, len(weight))})


def slots_of(network: Network, images: Sequence[Array]) -> tuple[Network, tuple[Slot, ...]]:
    """The slots of a network, with the channels of each in the order of what they contribute.

    A slot is only kept if cutting its modules computes what zeroing them does.

    Args:
        network: As :func:`library_network` gives it.
        images: Tensors (1, 3, S, S) in [0, 1] to measure contributions on.

    Returns:
        The same network with channels in another order, and its slots, the classes last.

    Raises:
        DataError: Nothing can be left out of it.
    """
    found = coupling(network)
    families = [f for f in (_family(network, found, groups) for groups in found.families()) if f]
    families = _independent(network, families)
    network = _ordered(network, families, images)
    slots: list[Slot] = []
    for family in families:
        slot = _slot(network, family, f"block{len(slots) + 1}")
        if slot is not None:
            slots.append(slot)
    if not slots:
        raise DataError(f"Nothing can be left out of '{network.name}': it has no inner channels.")
    return network, (*slots, _class_slot(network))


def _family(network: Network, found: Coupling, groups: Sequence[int]) -> _Family | None:
    """A family whose channels lie one after the other wherever they are; None for another one."""
    wanted, count = set(groups), len(groups)

    def is_whole(positions: Array) -> bool:
        return len(positions) == count and set(positions.tolist()) == wanted

    axes = [key for key, rows in found.weights.items() if wanted & set(rows.tolist())]
    tensors = [name for name, rows in found.channels.items() if wanted & set(rows.tolist())]
    whole = all(is_whole(found.weights[key]) for key in axes)
    whole &= all(is_whole(found.channels[name]) for name in tensors)
    names = [name for name, _ in axes]
    if not whole or len(set(names)) < len(names) or wanted & set(_shuffled(found)):
        return None
    readers = {
        name
        for node in network.nodes
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1
        for name in node.input[:1]
        if name in tensors
    }
    if len(readers) != 1 or not _divisors(count):
        return None
    return _Family(axes=tuple(axes), tensors=tuple(tensors), gated=readers.pop(), channels=count)


def _shuffled(found: Coupling) -> list[int]:
    return [int(g) for name in found.shuffles for g in found.channels.get(name, ())]


def _divisors(channels: int) -> list[int]:
    """Into how many modules channels can be divided evenly, at most :data:`GROUPS`."""
    return [n for n in range(2, GROUPS + 1) if channels % n == 0]


def _independent(network: Network, families: list[_Family]) -> list[_Family]:
    """Families that never meet in a weight, of the most multiply-adds in all."""
    if not families:
        return []
    shapes = tensor_shapes(network)
    work = {row.name: row.macs for row in op_costs(network, shapes)}
    gains = [
        sum(work[n.name] for n in network.nodes if {w for w, _ in f.axes} & set(n.input))
        for f in families
    ]
    owners: dict[str, list[int]] = {}
    for number, family in enumerate(families):
        for name, _ in family.axes:
            owners.setdefault(name, []).append(number)
    rows = [numbers for numbers in owners.values() if len(numbers) > 1]
    if not rows:
        return families
    matrix = np.zeros((len(rows), len(families)))
    for row, numbers in zip(matrix, rows, strict=True):
        row[numbers] = 1
    with silenced():
        chosen = milp(
            -np.array(gains, float), integrality=np.ones(len(families)), bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, -np.inf, 1),
        ).x  # fmt: skip
    return [family for family, is_in in zip(families, chosen, strict=True) if is_in > 0.5]


def _ordered(network: Network, families: Sequence[_Family], images: Sequence[Array]) -> Network:
    """The network with each family's channels sorted by what they contribute, most first.

    A channel contributes the root of its mean square times the norm of the weights that read it.
    """
    shapes, found = tensor_shapes(network), coupling(network)
    tapped = replace(network, outputs={f.gated: shapes[f.gated] for f in families})
    run, (entry,) = open_model(model_from_network(tapped)), network.inputs
    squares: dict[str, Array] = {}
    for image in images:
        for name, values in run({entry: image}).items():
            own = (values[0].astype(np.float64) ** 2).mean((1, 2))
            squares[name] = squares.get(name, 0.0) + own
    weights = dict(network.weights)
    for family in families:
        reader = next(
            node for node in network.nodes
            if node.op_type == "Conv" and node.input[0] == family.gated
        )  # fmt: skip
        norms = np.sqrt((network.weights[reader.input[1]].astype(np.float64) ** 2).sum((0, 2, 3)))
        order = np.argsort(-np.sqrt(squares[family.gated]) * norms, kind="stable")
        rank = {int(found.channels[family.gated][c]): r for r, c in enumerate(order)}
        for name, axis in family.axes:
            places = np.argsort([rank[int(group)] for group in found.weights[name, axis]])
            weights[name] = np.take(weights[name], places, axis=axis)
    return replace(network, weights=weights)


def _slot(network: Network, family: _Family, name: str) -> Slot | None:
    """The slot of a family; None if cutting is not zeroing, or costs do not add up."""
    count = _divisors(family.channels)[-1]
    step = family.channels // count
    tensors = [family.gated, *(t for t in family.tensors if t != family.gated)]
    nodes = tuple(node.name for node in network.nodes if {*node.input, *node.output} & set(tensors))

    def slot(mparams: float, mmacs: float) -> Slot:
        modules = tuple(
            Module(
                slot=name, index=i, mparams=mparams, mmacs=mmacs,
                owns=tuple(
                    OwnedRange(tensor=w, axis=axis, start=i * step, stop=(i + 1) * step)
                    for w, axis in family.axes
                ),
            )
            for i in range(count)
        )  # fmt: skip
        return Slot(
            name=name, kind="block", modules=modules, min_groups=1, nodes=nodes,
            gated=tuple(tensors),
        )  # fmt: skip

    draft = slot(0.0, 0.0)
    try:
        sizes = {kept: cut(network, [draft], {name: range(kept)}) for kept in (1, count - 1, count)}
        costs = {kept: _costs(part) for kept, part in sizes.items()}
        if not _is_equal(network, draft, sizes[1]):
            return None
    except DataError:
        return None
    each = costs[count] - costs[count - 1]
    if (each <= 0).any() or (costs[count] - costs[1] != (count - 1) * each).any():
        return None
    return slot(each[0] / 1e6, each[1] / 1e6)


def _costs(network: Network) -> Array:
    """Parameters and multiply-adds."""
    macs = sum(row.macs for row in op_costs(network, tensor_shapes(network)))
    return np.array([parameter_count(network), macs])


def _is_equal(network: Network, slot: Slot, part: Network) -> bool:
    """Whether a cut down to the first module computes what zeroing the others does."""
    ((entry, shape),) = network.inputs.items()
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    zeroed = run_network(mask(network, [slot], {slot.name: (0,)}), {entry: image})
    found = run_network(part, {entry: image})
    return all(
        np.abs(found[name] - values).max() <= TOLERANCE * max(1.0, float(np.abs(values).max()))
        for name, values in zeroed.items()
    )


def _class_slot(network: Network) -> Slot:
    """The rows of the classifier."""
    last, (logits,) = network.nodes[-1], network.outputs
    classes, features = network.weights[last.input[1]].shape
    modules = tuple(
        Module(
            slot="classes", index=i, mparams=(features + len(last.input) - 2) / 1e6,
            mmacs=features / 1e6,
            owns=tuple(
                OwnedRange(tensor=name, axis=0, start=i, stop=i + 1) for name in last.input[1:]
            ),
        )
        for i in range(classes)
    )  # fmt: skip
    return Slot(
        name="classes", kind="classes", modules=modules, min_groups=1, nodes=(last.name,),
        gated=(logits,),
    )  # fmt: skip
