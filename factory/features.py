"""Features: what the layer sees that answers for the classes; and the layer itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import NodeProto

from .accuracy_measurement import tensor_from_pixels
from .assembler.assemble import plan_from_counts
from .datasets import Images
from .errors import DataError
from .graph.evaluate import open_model
from .graph.network import Array, Network, model_from_network
from .library.library import ModuleLibrary, Prototypes
from .linker import link

LEAST_SPREAD = 0.1  # of the mean one: a feature that is silent in training counts as much as that


def class_layer(network: Network) -> NodeProto:
    """The fully connected layer that gives the logits of a classifier.

    Raises:
        DataError: The network ends in something else.
    """
    last = next((node for node in network.nodes if set(node.output) & set(network.outputs)), None)
    if last is None or last.op_type != "Gemm" or len(network.outputs) != 1:
        raise DataError(f"{network.name!r} does not end in one fully connected layer of classes.")
    return last


def features(network: Network, pixels: Array) -> tuple[Array, Array]:
    """Features (N, C) and logits (N, K) of images.

    Args:
        network: A classifier with raw outputs and batch 1.
        pixels: uint8 (N, H, W, 3).

    Raises:
        DataError: See :func:`class_layer`.
    """
    layer = class_layer(network)
    seen, logits = layer.input[0], layer.output[0]
    width = network.weights[layer.input[1]].shape[1]
    shapes = {**network.outputs, seen: (1, width)}
    run = open_model(model_from_network(replace(network, outputs=shapes)))
    (name,) = network.inputs
    rows = [run({name: image[None]}) for image in tensor_from_pixels(pixels)]
    return np.concatenate([r[seen] for r in rows]), np.concatenate([r[logits] for r in rows])


def full_network(library: ModuleLibrary) -> Network:
    """The network of all modules and classes at the library's size, with raw outputs."""
    counts = {slot.name: slot.groups for slot in library.blocks}
    return link(library, plan_from_counts(library, library.task(), counts)).folded


def measure_prototypes(network: Network, images: Images, classes: int) -> Prototypes:
    """Where the classes lie in the features of a network.

    Args:
        network: A classifier with raw outputs.
        images: Labelled, at least two of every class.
        classes: Number of classes K.
    """
    seen, _ = features(network, images.pixels)
    mean = np.stack([seen[images.labels == label].mean(0) for label in range(classes)])
    spread = (seen - mean[images.labels]).std(0)
    return Prototypes(mean=mean, spread=np.maximum(spread, LEAST_SPREAD * spread.mean()))


def with_class_layer(network: Network, weight: Array, bias: Array) -> Network:
    """The classifier with another last layer.

    Args:
        network: A classifier with raw outputs.
        weight: (K, C).
        bias: (K,).
    """
    layer = class_layer(network)
    weights = {
        **network.weights,
        layer.input[1]: weight.astype(np.float32),
        layer.input[2]: bias.astype(np.float32),
    }
    return replace(network, weights=weights, outputs={layer.output[0]: (1, len(bias))})
