"""Batch normalization: its statistics replaced or re-estimated, folded, or as convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto, helper

from ..errors import DataError
from .evaluate import run_network
from .network import Array, Network, attribute, tensor_shapes, without_dead_nodes

Moments = tuple[Array, Array]  # mean and variance, (C,) each


def norm_nodes(network: Network) -> list[NodeProto]:
    """The BatchNormalization nodes, in execution order."""
    return [node for node in network.nodes if node.op_type == "BatchNormalization"]


def with_moments(network: Network, moments: Mapping[str, Moments]) -> Network:
    """The network with other statistics, by name of the BatchNormalization node."""
    weights = dict(network.weights)
    for node in norm_nodes(network):
        if node.name in moments:
            mean, variance = moments[node.name]
            if mean.shape != weights[node.input[3]].shape:
                raise DataError(
                    f"Statistics of {node.name!r} have shape {mean.shape}, the network has "
                    f"{weights[node.input[3]].shape}."
                )
            weights[node.input[3]] = np.asarray(mean, np.float32)
            weights[node.input[4]] = np.asarray(variance, np.float32)
    return replace(network, weights=weights)


def estimate_moments(network: Network, images: Array) -> dict[str, Moments]:
    """Mean and variance at every BatchNormalization over a batch of images, in one pass.

    ONNX Runtime runs the nodes in training mode with momentum 0, which returns the statistics of
    the batch; every layer sees inputs normalized by the batch, as in the re-estimated network.

    Args:
        network: Any network; of one without such nodes there is nothing to estimate.
        images: (B, 3, H, W) in [0, 1].
    """
    nodes: list[NodeProto] = []
    outputs: dict[str, tuple[int, ...]] = {}
    names: dict[str, tuple[str, str]] = {}
    for node in network.nodes:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        mean, variance = f"{node.name}.mean", f"{node.name}.variance"
        channels = network.weights[node.input[3]].shape
        outputs |= {mean: channels, variance: channels}
        names[node.name] = (mean, variance)
        nodes.append(
            helper.make_node(
                "BatchNormalization", list(node.input), [node.output[0], mean, variance],
                name=node.name, epsilon=attribute(node, "epsilon", 1e-5), momentum=0.0,
                training_mode=1,
            )
        )  # fmt: skip
    if not names:
        return {}
    (name,) = network.inputs
    batched = replace(network, nodes=tuple(nodes), outputs=outputs, inputs={name: images.shape})
    values = run_network(without_dead_nodes(batched), {name: images})
    # Copies: an output of ONNX Runtime keeps the memory of its whole session alive.
    return {
        node: (np.array(values[mean]), np.array(values[variance]))
        for node, (mean, variance) in names.items()
    }


def fold_norms(network: Network) -> Network:
    """The network with every BatchNormalization folded into the convolution before it.

    Pre: each follows a Conv without bias that nothing else reads. Post: no BatchNormalization.
    """
    producers = {name: node for node in network.nodes for name in node.output}
    weights = dict(network.weights)
    folded: dict[str, NodeProto] = {}
    for norm in norm_nodes(network):
        conv = producers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or len(conv.input) != 2:
            raise DataError(f"{norm.name!r} does not follow a convolution without bias.")
        scale, shift, mean, variance = (
            network.weights[name].astype(np.float64) for name in norm.input[1:]
        )
        factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        kernel = network.weights[conv.input[1]].astype(np.float64)
        if len(kernel) != len(factor):
            raise DataError(
                f"{norm.name!r} has {len(factor)} channels, its convolution {len(kernel)}."
            )
        weights[conv.input[1]] = (kernel * factor[:, None, None, None]).astype(np.float32)
        bias = f"{conv.input[1]}.bias"
        weights[bias] = (shift - mean * factor).astype(np.float32)
        fused = NodeProto()
        fused.CopyFrom(conv)
        fused.input.append(bias)
        fused.output[0] = norm.output[0]
        folded[conv.name], folded[norm.name] = fused, fused
    nodes = tuple(
        folded.get(node.name, node) for node in network.nodes
        if node.op_type != "BatchNormalization"
    )  # fmt: skip
    return without_dead_nodes(replace(network, nodes=nodes, weights=weights))


def norms_as_convolutions(network: Network) -> Network:
    """The network with every BatchNormalization of feature maps as a 1x1 depthwise convolution.

    For those that no convolution stands right before, as in networks that normalize what they add
    or concatenate: whatever understands convolutions then understands them. Answers are the same
    but for rounding. One of vectors (N, C), or with statistics that are no weights, stays.
    """
    shapes = tensor_shapes(network)
    weights, nodes = dict(network.weights), []
    for node in network.nodes:
        rows = [weights.get(name) for name in node.input[1:]]
        is_norm = node.op_type == "BatchNormalization" and len(node.output) == 1
        if not is_norm or any(row is None for row in rows) or len(shapes[node.input[0]]) != 4:
            nodes.append(node)
            continue
        scale, shift, mean, variance = (np.asarray(row, np.float64) for row in rows)
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        kernel, bias = f"{node.output[0]}.scale", f"{node.output[0]}.shift"
        weights[kernel] = factor[:, None, None, None].astype(np.float32)
        weights[bias] = (shift - mean * factor).astype(np.float32)
        nodes.append(
            helper.make_node(
                "Conv", [node.input[0], kernel, bias], list(node.output), name=node.name,
                kernel_shape=[1, 1], group=len(factor),
            )
        )  # fmt: skip
    return without_dead_nodes(replace(network, nodes=tuple(nodes), weights=weights))
