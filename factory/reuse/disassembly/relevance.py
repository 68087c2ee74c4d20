"""Which channels matter for a class, found backwards from its logit by contributions.

Twice: with the paper's thresholds, and as shares of the logit that flow through every channel,
which can be compared between layers and so be the values of a choice within limits.

Source:
    Model Disassembling and Assembling (Hu et al., arXiv:2203.13453 and NeurIPS 2024): hard
    relevance, allocation and locating. Different here: streams that several layers add to are
    relevant as a whole, where the paper's code cuts them (and residual networks collapse).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from ...graph.network import Array
from .contributions import Contributions, layers_of
from .families import Anatomy, input_axis
from .kinds import Ends
from .reconstruction import Losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Of relative contributions (alpha) and of allocated ones (beta), each in [0, 1].

    Defaults are those of the paper's code.
    """

    conv_alpha: float = 0.3
    conv_beta: float = 0.2
    linear_alpha: float = 0.4
    linear_beta: float = 0.3


def located(
    anatomy: Anatomy, found: Contributions, ends: Sequence[Ends],
    thresholds: Thresholds = Thresholds(),  # noqa: B008 - it is frozen
) -> dict[str, Array]:  # fmt: skip
    """What the thresholds keep for classes: per family the positions that stay, rising.

    A family of which nothing is relevant keeps its first channel, unless it is all of a branch.

    Args:
        anatomy: The network.
        found: Its contributions.
        ends: Per class of ``found`` the channels of the outputs that speak for it.
        thresholds: The paper's.
    """
    relevant: set[int] = set()
    for row, end in enumerate(ends):
        relevant |= _located(anatomy, found, row, end, thresholds)
    kept = {}
    for family in anatomy.families:
        mine = [i for i, group in enumerate(family.groups) if group in relevant]
        if not mine and not family.branch:
            mine = [0]
        kept[family.name] = np.array(mine, np.int64)
    return kept


def _located(
    anatomy: Anatomy, found: Contributions, row: int, end: Ends, thresholds: Thresholds
) -> set[int]:
    """Groups that are relevant for a class."""
    inner = {group for family in anatomy.families for group in family.groups}
    relevant: set[int] = set()
    for layer, inside, outside in _backwards(anatomy):
        is_linear = layer.op_type == "Gemm"
        alpha = thresholds.linear_alpha if is_linear else thresholds.conv_alpha
        beta = thresholds.linear_beta if is_linear else thresholds.conv_beta
        if layer.output[0] in anatomy.network.outputs:
            rows = end[layer.output[0]] > 0
        else:
            rows = np.array([group in relevant or group not in inner for group in outside])
        hard = _relative(found.layers[layer.name][row]) >= alpha
        scores = _relative(hard[rows].sum(0, keepdims=True).astype(float))[0]
        relevant |= {int(group) for group, score in zip(inside, scores, strict=True)
                     if score >= beta}  # fmt: skip
    return relevant


def _relative(values: Array) -> Array:
    """Every row from 0 at its least to 1 at its greatest."""
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    return np.asarray((values - low) / np.maximum(high - low, 1e-12))


def flows(anatomy: Anatomy, found: Contributions, ends: Sequence[Ends]) -> dict[str, Array]:
    """Share of the classes' outputs that flows through every channel of every family, (K, C).

    What an output has of a class is divided among the inputs of its layer as they contribute, and
    so on backwards; a sum divides it by the magnitudes of both sides.

    Args:
        anatomy: The network.
        found: Its contributions.
        ends: Per class of ``found`` the share that each channel of the outputs has in it; they add
            up to 1.
    """
    rows: dict[str, list[Array]] = {family.name: [] for family in anatomy.families}
    for row, end in enumerate(ends):
        through: dict[str, Array] = {}
        for out, shares in end.items():
            _arrive(through, out, shares)
        for node in reversed(anatomy.network.nodes):
            _divide(anatomy, found, row, node, through)
        for family in anatomy.families:
            groups = anatomy.found.channels[family.tensor].tolist()
            place = {group: position for position, group in enumerate(groups)}
            mine = through.get(family.tensor, np.zeros(len(groups)))
            rows[family.name].append(mine[[place[group] for group in family.groups]])
    return {name: np.stack(each) for name, each in rows.items()}


def _divide(
    anatomy: Anatomy, found: Contributions, row: int, node: NodeProto, through: dict[str, Array]
) -> None:
    """What arrives at a node's outputs goes to its inputs."""
    channels = anatomy.found.channels
    for out in node.output:
        arrived = through.get(out)
        if arrived is None:
            continue
        if node.name in found.layers:
            parts = found.layers[node.name][row].astype(np.float64)
            shares = parts / np.maximum(parts.sum(1, keepdims=True), 1e-12)
            _arrive(through, node.input[0], arrived @ shares)
        elif node.name in found.sums:
            share = found.sums[node.name][row]
            for name, part in zip(node.input, (share, 1 - share), strict=True):
                _arrive(through, name, arrived * part)
        elif node.op_type == "Concat":
            _part(channels, node, arrived, through)
        else:
            for name in [name for name in node.input if name in channels][:1]:
                _arrive(through, name, _by_group(channels[out], arrived, channels[name]))


def _part(
    channels: Mapping[str, Array], node: NodeProto, arrived: Array, through: dict[str, Array]
) -> None:
    """What arrives at tensors side by side goes to each by its place; one group may be in many."""
    sources = [name for name in node.input if name in channels]
    ends = np.cumsum([len(channels[name]) for name in sources])
    if len(sources) == len(node.input) and ends[-1] == len(arrived):
        for name, part in zip(sources, np.split(arrived, ends[:-1]), strict=True):
            _arrive(through, name, part)
        return
    for name in sources:  # side by side in space
        part = _by_group(channels[node.output[0]], arrived, channels[name])
        _arrive(through, name, part / len(sources))


def _arrive(through: dict[str, Array], tensor: str, share: Array) -> None:
    through[tensor] = through.get(tensor, 0.0) + share


def _by_group(groups: Array, values: Array, wanted: Array) -> Array:
    """Values of channels given to the channels of the same groups, in equal parts."""
    size = int(max(groups.max(), wanted.max())) + 1
    total = np.bincount(groups, values, size)
    return np.asarray(total[wanted] / np.bincount(wanted, minlength=size)[wanted])


def losses_by_flow(flow: Mapping[str, Array]) -> dict[str, Losses]:
    """What families lose when a choice is made by :func:`flows`: the shares of what is gone.

    Args:
        flow: Per family (K, C).
    """
    found = {}
    for name, rows in flow.items():
        mean = rows.mean(0)
        order = np.argsort(-mean, kind="stable")
        lost = np.concatenate([[mean.sum()], mean.sum() - np.cumsum(mean[order])])
        found[name] = Losses(order=order, lost=np.maximum(lost, 0))
    return found


def _backwards(anatomy: Anatomy) -> Iterator[tuple[NodeProto, Array, Array]]:
    """Layers from the last to the first, with the groups of their inputs and outputs."""
    for layer in reversed(layers_of(anatomy)):
        axis = input_axis(layer)
        inside = anatomy.found.weights.get((layer.input[1], axis))
        if inside is None:  # it reads the image
            continue
        yield layer, inside, anatomy.found.weights[layer.input[1], 1 - axis]
