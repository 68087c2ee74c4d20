"""How much every input channel of every layer contributes to every output, class by class.

A layer's output is a sum over its inputs, and contributions are sums over space before any
rectifier. So they need no partial maps: what an input contributes is its kernel times sums of the
input, one per tap of the kernel, shifted and strided as the convolution does. Megabytes instead of
tens of gigabytes, and forward passes only.

Source:
    Model Disassembling and Assembling (Hu et al., arXiv:2203.13453 and NeurIPS 2024): aggregation.
    The closed form is our own; it equals the definition (see the tests).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ...graph.evaluate import open_model
from ...graph.network import Array, attribute, model_from_network, tensor_shapes
from .families import Anatomy, input_axis, mixes
from .layer_inputs import padding

EACH = 50  # images of a class, the most confident ones
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contributions:
    """Of the layers of a network, for some classes.

    Attributes:
        layers: Per layer's name (K, Q, C): what is positive of input C's part of output Q, summed
            over space, averaged over images of the class.
        sums: Per node that adds two tensors (K, Q): the share of its first input in the magnitude
            of both, in [0, 1].
    """

    layers: Mapping[str, Array]
    sums: Mapping[str, Array]


def layers_of(anatomy: Anatomy) -> list[NodeProto]:
    """The layers that mix channels, in execution order."""
    weights = anatomy.network.weights
    return [n for n in anatomy.network.nodes if mixes(n) and n.input[1] in weights]


def contributions(
    anatomy: Anatomy, images: Sequence[Sequence[Array]], *,
    report: Report = lambda phase, done, total: None,
) -> Contributions:  # fmt: skip
    """Measure contributions.

    Args:
        anatomy: The network.
        images: Per class tensors (1, 3, S, S) as it reads them.
        report: Called with ("contributions", done, total) per class.
    """
    network, layers = anatomy.network, layers_of(anatomy)
    sums, shapes = sums_of(anatomy), tensor_shapes(network)
    wanted = {layer.input[0] for layer in layers} | {name for add in sums for name in add.input}
    inside = {name: shapes[name] for name in wanted - network.inputs.keys()}
    run = open_model(model_from_network(replace(network, outputs=inside)))
    (entry,) = network.inputs

    def of_image(image: Array) -> list[Array]:
        made = {entry: image, **run({entry: image})}
        return [
            *(_parts(layer, network.weights[layer.input[1]], made[layer.input[0]][0],
                     shapes[layer.output[0]][2:]) for layer in layers),
            *(_share(*(made[name][0] for name in add.input)) for add in sums),
        ]  # fmt: skip

    names = [node.name for node in (*layers, *sums)]
    rows: dict[str, list[Array]] = {name: [] for name in names}
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for done, mine in enumerate(images, 1):
            totals: list[Array] = []
            for found in workers.map(of_image, mine):
                totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
            for name, total in zip(names, totals, strict=True):
                rows[name].append((total / len(mine)).astype(np.float32))
            report("contributions", done, len(images))
    table = {name: np.stack(found) for name, found in rows.items()}
    return Contributions(
        layers={layer.name: table[layer.name] for layer in layers},
        sums={add.name: table[add.name] for add in sums},
    )


def _parts(layer: NodeProto, weight: Array, x: Array, out: Sequence[int]) -> Array:
    """What is positive of each input's part of each output of a layer on an image, (Q, C)."""
    taps = tap_sums(layer, weight.shape[2:], x, out)
    return np.asarray(np.maximum(np.einsum("qck,ck->qc", _matrix(weight, layer), taps), 0))


def tap_sums(layer: NodeProto, kernel: Sequence[int], x: Array, out: Sequence[int]) -> Array:
    """Sums of a layer's input over all places that each tap of its kernel sees, (C, kH * kW).

    Args:
        layer: A Conv or Gemm.
        kernel: (kH, kW), or () of a Gemm.
        x: Its input (C, H, W) or (C,).
        out: (H', W') of its output, or ().
    """
    if not kernel:
        return np.asarray(x, np.float64)[:, None]
    steps, gaps = (attribute(layer, key, [1, 1]) for key in ("strides", "dilations"))
    top, left, bottom, right = padding(layer, x.shape[1:], kernel)
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    along = [slice(j * gaps[1], j * gaps[1] + (out[1] - 1) * steps[1] + 1, steps[1])
             for j in range(kernel[1])]  # fmt: skip
    down = [slice(i * gaps[0], i * gaps[0] + (out[0] - 1) * steps[0] + 1, steps[0])
            for i in range(kernel[0])]  # fmt: skip
    columns = [padded[:, :, part].sum(2, dtype=np.float64) for part in along]
    return np.stack([rows[:, part].sum(1) for part in down for rows in columns], 1)


def _matrix(weight: Array, layer: NodeProto) -> Array:
    """A layer's weight as (Q, C, k)."""
    rows = weight if input_axis(layer) == 1 else weight.T
    return np.asarray(rows.reshape(*rows.shape[:2], -1), np.float64)


def sums_of(anatomy: Anatomy) -> list[NodeProto]:
    """The nodes that add two tensors of channels."""
    channels = anatomy.found.channels
    return [
        node
        for node in anatomy.network.nodes
        if node.op_type == "Add" and all(name in channels for name in node.input)
    ]


def _share(one: Array, other: Array) -> Array:
    """Per channel the share of the first in the magnitude of both."""
    mine, rest = (np.abs(x).reshape(len(x), -1).mean(1, dtype=np.float64) for x in (one, other))
    return np.asarray(mine / np.maximum(mine + rest, 1e-12))
