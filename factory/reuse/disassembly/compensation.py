"""A network that lost channels, fitted layer by layer to what the whole network computes.

Every layer that mixes channels is fitted in closed form, in execution order: to the whole
network's output of that layer, or, where it is added to a stream, to what is missing of the whole
network's sum. So a layer takes back what the removed channels did before it as well as what was
lost on the way; no gradient step is taken.

Source:
    Least-squares reconstruction as in He et al., "Channel Pruning for Accelerating Very Deep Neural
    Networks", arXiv:1707.06168; here with a ridge towards the weights that were there, on inputs of
    the network that is being fitted, and with sums as targets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto
from scipy.linalg import cho_factor, cho_solve

from ...graph.evaluate import open_model
from ...graph.memory import peak_bytes
from ...graph.network import Array, Network, model_from_network, tensor_shapes
from ..threads import small_matrices
from .families import input_axis, mixes
from .layer_inputs import positions, rows_at

STRENGTH = 1e-2  # of the ridge, as a share of the mean variance of a feature
ROWS, EACH = 10000, 6  # rows that a layer is fitted to, and per weight of an output
MOST = 400  # of one image: places of it are alike
MEMORY, LEAST = 3 * 2**30, 32  # bytes of all images on their way, and images, at least
TURNS = 10  # fits of a layer that a rectifier follows
Report = Callable[[str, int, int], None]


class _Run:
    """A network on its way through all images: what later nodes need is kept, nothing else.

    Attributes:
        network: Its weights may change behind the place that was reached.
        live: Per tensor the values for every image.
    """

    def __init__(self, network: Network, images: Sequence[Array], held: Sequence[str] = ()) -> None:
        self.network, self.shapes = network, tensor_shapes(network)
        self._place = 0
        (entry,) = network.inputs
        self.live: dict[str, list[Array]] = {entry: list(images)}
        self._last: dict[str, int] = dict.fromkeys((*network.outputs, *held), len(network.nodes))
        for place, node in enumerate(network.nodes):
            for name in node.input:
                self._last[name] = max(place, self._last.get(name, 0))

    def to(self, tensor: str) -> None:
        """Compute everything up to a tensor."""
        if tensor not in self.live:
            places = (i for i, node in enumerate(self.network.nodes) if tensor in node.output)
            self.before(next(places) + 1)

    def release(self, tensor: str) -> None:
        """Keep a tensor no longer than nodes read it."""
        self._last[tensor] = max(
            (i for i, node in enumerate(self.network.nodes) if tensor in node.input), default=-1
        )
        if self._last[tensor] < self._place:
            del self.live[tensor]

    def before(self, end: int) -> None:
        """Compute everything before the node at a place."""
        nodes = self.network.nodes[self._place : end]
        if not nodes:
            return
        made = [name for node in nodes for name in node.output if name]
        kept = [name for name in made if self._last.get(name, -1) >= end]
        read = {name for node in nodes for name in node.input}
        part = replace(
            self.network, nodes=nodes,
            weights={n: a for n, a in self.network.weights.items() if n in read},
            inputs={name: self.shapes[name] for name in self.live if name in read},
            outputs={name: self.shapes[name] for name in kept},
        )  # fmt: skip
        run = open_model(model_from_network(part))

        def values(image: int) -> dict[str, Array]:
            return run({name: self.live[name][image] for name in part.inputs})

        with ThreadPoolExecutor(os.cpu_count()) as workers:
            rows = list(workers.map(values, range(len(next(iter(self.live.values()))))))
        self.live = {
            name: held for name, held in self.live.items() if self._last.get(name, -1) >= end
        }
        self.live |= {name: [row[name] for row in rows] for name in kept}
        self._place = end


def compensated(
    base: Network, narrow: Network, channels: Mapping[str, Array], images: Sequence[Array], *,
    strength: float = STRENGTH, report: Report = lambda phase, done, total: None,
) -> Network:  # fmt: skip
    """Fit the layers of a network that lost channels to what the whole one computes.

    Args:
        base: The whole network, with one input.
        narrow: The same without some channels and nodes; tensors have the names they had.
        channels: Per tensor of which some channels are gone those that are left, as positions.
        images: Tensors as the network reads them; the first of them where all would take more than
            :data:`MEMORY`.
        strength: Of the ridge towards the weights that were there.
        report: Called with ("layers", done, total).

    Returns:
        ``narrow`` with other weights.
    """
    layers = _layers(base, narrow, channels)
    images = images[: most_images(base, narrow)]
    targets = [layer.target for layer in layers]
    whole, cut = _Run(base, images, targets), _Run(narrow, images)
    for done, layer in enumerate(layers, 1):
        cut.before(layer.place)
        whole.to(layer.target)
        rows = _rows(layer, whole, cut, channels.get(layer.target))
        if layer.target not in targets[done:]:
            whole.release(layer.target)
        node = narrow.nodes[layer.place]
        with small_matrices():
            weights = _fitted(
                node, cut.network.weights, rows, strength, is_rectified=layer.is_rectified
            )
        cut.network = replace(cut.network, weights={**cut.network.weights, **weights})
        report("layers", done, len(layers))
    return cut.network


def most_images(*networks: Network) -> int:
    """How many images may be on their way through networks at once."""
    each = 0
    for network in networks:
        shapes = tensor_shapes(network)
        weights = sum(array.nbytes for array in network.weights.values())
        each += peak_bytes(network, shapes) - weights
    return max(LEAST, MEMORY // max(1, each))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What is fitted to what: a node, and a tensor of the whole network, less another one."""

    place: int
    target: str
    plus: str
    is_rectified: bool


def _layers(base: Network, narrow: Network, channels: Mapping[str, Array]) -> list[_Layer]:
    """Layers that mix channels, behind what was removed, in execution order.

    Of layers that the whole network has not, there is nothing to fit them to.
    """
    known = {name for node in base.nodes for name in node.output}
    made = {name: place for place, node in enumerate(narrow.nodes) for name in node.output}
    changed, layers = _behind(base, narrow, channels), []
    for place, node in enumerate(narrow.nodes):
        if not mixes(node) or node.input[1] not in narrow.weights:
            continue
        (target,), plus = node.output[:1], ""
        readers = [other for other in narrow.nodes if target in other.input]
        if len(readers) == 1 and readers[0].op_type == "Add":
            (other,) = set(readers[0].input) - {target} or {""}
            if made.get(other, len(narrow.nodes)) < place:
                target, plus = readers[0].output[0], other
        if target in known and (node.input[0] in changed or plus in changed):
            after = {node.op_type for node in base.nodes if target in node.input}
            layers.append(
                _Layer(place=place, target=target, plus=plus, is_rectified=after == {"Relu"})
            )
    return layers


def _behind(base: Network, narrow: Network, channels: Mapping[str, Array]) -> set[str]:
    """Tensors that differ from those of the whole network."""
    inputs = {node.output[0]: list(node.input) for node in base.nodes}
    changed = set(channels)
    for node in narrow.nodes:
        was = inputs.get(node.output[0])
        if changed & set(node.input) or was != list(node.input):
            changed |= set(node.output)
    return changed


def _rows(layer: _Layer, whole: _Run, cut: _Run, kept: Array | None) -> tuple[Array, Array, Array]:
    """Inputs (R, F) of a layer over all images, what its sum should be and what else is in it."""
    node = cut.network.nodes[layer.place]
    kernel = cut.network.weights[node.input[1]].shape[2:]
    rng = np.random.default_rng(layer.place)
    inputs = cut.live[node.input[0]]
    features = inputs[0].shape[1] * int(np.prod(kernel))
    most = min(MOST, -(-max(ROWS, EACH * features) // len(inputs)))

    def each() -> Iterator[tuple[Array, Array, Array]]:
        others = cut.live[layer.plus] if layer.plus else None
        for number, (x, total) in enumerate(zip(inputs, whole.live[layer.target], strict=True)):
            y = total[0] if kept is None else total[0][kept]
            places = positions(y.shape, rng.random(int(np.prod(y.shape[1:]))), most)
            there = y.reshape(len(y), -1)[:, places].T
            yield (
                rows_at(node, kernel, x[0], places, y.shape[-1]), there,
                np.zeros_like(there) if others is None
                else np.broadcast_to(others[number][0], y.shape).reshape(len(y), -1)[:, places].T,
            )  # fmt: skip

    x, y, beside = zip(*each(), strict=True)
    return np.concatenate(x), np.concatenate(y), np.concatenate(beside)


def _fitted(
    node: NodeProto, weights: Mapping[str, Array], rows: tuple[Array, Array, Array],
    strength: float, *, is_rectified: bool,
) -> dict[str, Array]:  # fmt: skip
    """Weights of a layer by ridge regression towards what they are.

    Where a rectifier follows, what is below zero need only be below zero: the target of such a
    place is what the last fit made of it, if that is negative, and zero if not. Each turn lowers
    the error behind the rectifier.
    """
    kernel = weights[node.input[1]]
    is_across = input_axis(node) == 0  # (F, Q) already
    old = (kernel if is_across else kernel.reshape(len(kernel), -1).T).astype(np.float64)
    bias = node.input[2] if len(node.input) > 2 else ""
    x, total, beside = (part.astype(np.float64) for part in rows)
    center = x.mean(0) if bias else np.zeros(x.shape[1])
    x -= center
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += strength * np.trace(gram) / len(gram) + 1e-12
    factor, new, shift = cho_factor(gram), old, np.zeros(old.shape[1])
    target = total
    for _ in range(TURNS if is_rectified else 1):
        y = target - beside
        shift = y.mean(0) if bias else shift
        new = old + cho_solve(factor, x.T @ (y - shift - x @ old))
        made = x @ new + shift + beside
        target = np.where(total > 0, total, np.minimum(made, 0))
    shaped = new if is_across else new.T.reshape(kernel.shape)
    found = {node.input[1]: np.ascontiguousarray(shaped, np.float32)}
    if bias:
        found[bias] = (shift - center @ new).astype(np.float32).reshape(weights[bias].shape)
    return found
