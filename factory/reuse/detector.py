"""A foreign detector of some of its classes: images in, raw maps out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from ..errors import DataError
from ..graph.evaluate import open_model
from ..graph.network import Array, Network, attribute, model_from_network, tensor_shapes
from ..graph.normalization import norm_nodes
from ..graph.own_weights import named_by_output, with_own_weights
from ..graph.segments import chained
from .detection_head import DetectionHead, HeadMap
from .donor import Donor

RIDGE = 1e-3  # of the regression that makes one class of all others


def detector_network(donor: Donor, outputs: Sequence[int], images: Sequence[Array]) -> Network:
    """A detector that reads "images", RGB in [0, 1], and gives raw maps of some of its classes.

    Class scores are a softmax over all classes, so those that are not asked for count, too. One
    more channel stands for all of them: a linear layer, fitted where there are objects to the
    logarithm of the sum of their exponentials.

    Args:
        donor: A detector whose class maps are made by 1x1 convolutions.
        outputs: Positions of the classes among its labels.
        images: Tensors (1, 3, S, S) in [0, 1] to fit that channel to.

    Raises:
        DataError: It is made otherwise, or holds a normalization that cannot be folded.
    """
    head = _head(donor)
    if norm_nodes(donor.network):
        raise DataError(f"'{donor.name}' holds normalization that does not follow a convolution.")
    whole = chained(donor.name, [donor.entry(), with_own_weights(donor.network)])
    whole = replace(whole, nodes=tuple(map(named_by_output, whole.nodes)))
    others = [i for i in range(len(donor.labels)) if i not in set(outputs)]
    rows = _row_of_others(whole, head, others, images) if others else None
    weights, shapes = dict(whole.weights), dict(whole.outputs)
    for number, one in enumerate(head.maps):
        node = _class_layer(whole, one)
        for place, name in enumerate(node.input[1:]):
            kept = weights[name][list(outputs)]
            weights[name] = kept if rows is None else np.concatenate([kept, rows[number][place]])
        channels = len(outputs) + (rows is not None)
        shapes[one.classes] = (1, channels, *shapes[one.classes][2:])
    return replace(whole, weights=weights, outputs=shapes)


def _head(donor: Donor) -> DetectionHead:
    if donor.head is None:
        raise DataError(
            f"'{donor.name}' is no detector that was imported with a [head].",
            hints=["say in a card which raw maps it has: docs/disassembly.md"],
        )
    return donor.head


def _class_layer(network: Network, one: HeadMap) -> NodeProto:
    """The 1x1 convolution with a bias that makes a map of classes.

    Raises:
        DataError: Something else makes it.
    """
    made = next((node for node in network.nodes if one.classes in node.output), None)
    is_plain = (
        made is not None
        and made.op_type == "Conv"
        and len(made.input) == 3
        and attribute(made, "group", 1) == 1
        and all(name in network.weights for name in made.input[1:])
        and network.weights[made.input[1]].shape[2:] == (1, 1)
        and all(stride == 1 for stride in attribute(made, "strides", [1, 1]))
    )
    if made is None or not is_plain:
        raise DataError(
            f"'{network.name}': output '{one.classes}' must be made by a 1x1 convolution with bias."
        )
    return made


def _row_of_others(
    network: Network, head: DetectionHead, others: Sequence[int], images: Sequence[Array]
) -> list[tuple[Array, Array]]:
    """Per map the weights and bias of one more output: how likely any of the others is.

    A ridge regression, weighted by objectness: what is nowhere an object need not be right.
    """
    layers = [_class_layer(network, one) for one in head.maps]
    shapes = tensor_shapes(network)
    names = [name for one in head.maps for name in (one.objectness, one.classes)]
    names += [layer.input[0] for layer in layers]
    run = open_model(
        model_from_network(replace(network, outputs={name: shapes[name] for name in names}))
    )
    (entry,) = network.inputs
    grams = [np.zeros((0, 0))] * len(layers)
    sides = [np.zeros(0)] * len(layers)
    for image in images:
        found = run({entry: image})
        for number, (one, layer) in enumerate(zip(head.maps, layers, strict=True)):
            x, total, weight = _rows(found, one, layer, others)
            gram, side = (x * weight).T @ x, (x * weight).T @ total
            grams[number] = grams[number] + gram if grams[number].size else gram
            sides[number] = sides[number] + side if sides[number].size else side
    rows = []
    for layer, gram, side in zip(layers, grams, sides, strict=True):
        gram[np.diag_indices(len(gram) - 1)] += RIDGE * np.trace(gram) / len(gram)
        solved = np.linalg.solve(gram + 1e-9 * np.eye(len(gram)), side)
        shape = network.weights[layer.input[1]].shape
        row = solved[:-1].reshape(1, *shape[1:]).astype(np.float32)
        rows.append((row, solved[-1:].astype(np.float32)))
    return rows


def _rows(
    found: dict[str, Array], one: HeadMap, layer: NodeProto, others: Sequence[int]
) -> tuple[Array, Array, Array]:
    """Features with a one behind them (R, F + 1), what they should make (R,), weights (R, 1)."""
    features = found[layer.input[0]][0].astype(np.float64)
    logits = found[one.classes][0][list(others)].reshape(len(others), -1).astype(np.float64)
    highest = logits.max(0)
    total = highest + np.log(np.exp(logits - highest).sum(0))
    real = 1 / (1 + np.exp(-found[one.objectness][0].astype(np.float64)))
    weight = real.max(0).reshape(-1, 1) + 1e-4
    x = features.reshape(len(features), -1).T
    return np.concatenate([x, np.ones((len(x), 1))], 1), total, weight
