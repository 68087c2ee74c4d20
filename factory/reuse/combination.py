"""Several classifiers as one: parallel branches, their logits side by side.

Each branch keeps its preprocessing and its own size of the image; what branches have in common at
their beginning is computed once. Each classifier is sure of its classes whatever it sees, so a
gate, a linear layer in closed form on the features of all branches, says whose image it is; scales
and shifts per branch and the gate's weight are fitted by maximum likelihood.

Source:
    Assembling of Model Disassembling and Assembling (arXiv:2203.13453, NeurIPS 2024). There filters
    are padded with zeros to one block-diagonal network, the same function with more work, and
    scaled by magnitudes of features; ``benchmarks/combination.py`` compares. The gate is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, helper
from scipy.optimize import OptimizeResult, minimize

from ..errors import DataError
from ..graph.network import Array, Network, tensor_shapes
from ..graph.segments import chained
from .head import fit_linear_head

PRIOR = 0.01  # of scales at one and the rest at zero, in nats per image
FOLDS = 5
FEATURES, LOGITS = "features", "logits"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """What makes logits of several networks comparable.

    Attributes:
        scales: Per network; its logits are multiplied by it.
        shifts: Per network; added afterwards.
        gate: Weight of what the gate says.
        weight: Of the gate, (M, F): features of all networks to a score per network.
        bias: (M,).
        loss: Mean negative log-likelihood of the images that they were fitted to, in nats, the
            gate not having seen the image.
        gradient: Largest derivative of what was minimized, which is convex: 0 at its least.
    """

    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    gate: float
    weight: Array
    bias: Array
    loss: float
    gradient: float


def branch_of(network: Network) -> Network:
    """A classifier without its softmax, with two outputs: :data:`FEATURES` and :data:`LOGITS`.

    Features are what its last linear layer reads; its logits where there is no such layer.

    Raises:
        DataError: It does not end in a softmax.
    """
    last = network.nodes[-1]
    if last.op_type != "Softmax" or list(last.output) != list(network.outputs):
        raise DataError(f"'{network.name}' is no classifier that ends in probabilities.")
    logits = last.input[0]
    layer = next(node for node in network.nodes if logits in node.output)
    features = layer.input[0] if layer.op_type == "Gemm" else logits
    shapes = tensor_shapes(network)
    nodes, weights = _renamed(replace(network, nodes=network.nodes[:-1]), "in")
    ends = [
        helper.make_node("Identity", [f"in/{source}"], [out], name=out)
        for source, out in ((features, FEATURES), (logits, LOGITS))
    ]
    return replace(
        network, nodes=(*nodes, *ends), weights=weights,
        inputs={"images": next(iter(network.inputs.values()))},
        outputs={FEATURES: shapes[features], LOGITS: shapes[logits]},
    )  # fmt: skip


def calibrate(
    features: Sequence[Array], logits: Sequence[Array], labels: Array, *, seed: int = 0
) -> Calibration:
    """Fit gate, scales and shifts to images of all classes.

    Args:
        features: Per network (N, F_m).
        logits: Per network (N, K_m).
        labels: Of the N images, counted over the classes of all networks in turn.
        seed: Of the division of the images: the gate's weight is fitted to what it says of images
            that it was not fitted to.
    """
    count = len(logits)
    owner = np.concatenate([np.full(rows.shape[1], m) for m, rows in enumerate(logits)])
    belongs = owner[labels]
    x, weight, bias = _gate(features, belongs)
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    said = np.zeros((len(labels), count))
    for part in range(FOLDS):
        rest, mine = fold != part, fold == part
        head = fit_linear_head(x[rest], belongs[rest], count)
        said[mine] = x[mine] @ head.weight.T + head.bias
    whole = np.concatenate([rows.astype(np.float64) for rows in logits], 1)
    fitted = _most_likely(whole, said[:, owner], owner, labels)
    scales, shifts = fitted.x[:count], fitted.x[count : 2 * count]
    free = np.where((fitted.x <= 1e-3) & (fitted.jac > 0), 0, fitted.jac)
    return Calibration(
        scales=tuple(scales.tolist()), shifts=tuple(shifts.tolist()), gate=float(fitted.x[-1]),
        weight=weight, bias=bias, loss=float(fitted.fun), gradient=float(np.abs(free).max()),
    )  # fmt: skip


def _gate(features: Sequence[Array], belongs: Array) -> tuple[Array, Array, Array]:
    """Features side by side, each network's of mean 0 and size 1; the gate on them as they were."""
    means = [rows.mean(0) for rows in features]
    sizes = [float(rows.std()) * rows.shape[1] ** 0.5 + 1e-12 for rows in features]
    x = np.concatenate(
        [(rows - m) / s for rows, m, s in zip(features, means, sizes, strict=True)], 1
    )
    head = fit_linear_head(x, belongs, len(features))
    scale = np.concatenate([np.full(len(m), 1 / s) for m, s in zip(means, sizes, strict=True)])
    weight = head.weight * scale
    return x, weight, head.bias - weight @ np.concatenate(means)


def _most_likely(whole: Array, said: Array, owner: Array, labels: Array) -> OptimizeResult:
    """Scales and shifts per network and the gate's weight: softmax regression, so convex."""
    count, rows = int(owner.max()) + 1, np.arange(len(labels))
    prior = np.concatenate([np.ones(count), np.zeros(count + 1)])

    def loss(x: Array) -> tuple[float, Array]:
        scaled = whole * x[:count][owner] + x[count:-1][owner] + x[-1] * said
        shifted = scaled - scaled.max(1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        wrong = np.exp(logs)
        wrong[rows, labels] -= 1
        slope = np.concatenate(
            [np.bincount(owner, (wrong * whole).mean(0), count),
             np.bincount(owner, wrong.mean(0), count), [(wrong * said).sum(1).mean()]]
        )  # fmt: skip
        away = np.append((x - prior)[:-1], 0.1 * x[-1])
        value = -logs[rows, labels].mean() + PRIOR * float(away @ (x - prior)) / 2
        return float(value), np.asarray(slope + PRIOR * away)

    bounds = [(1e-3, None)] * count + [(None, None)] * count + [(0.0, None)]
    return minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=bounds)


def combined(branches: Sequence[Network], calibration: Calibration) -> Network:
    """Networks side by side, from "images" of the largest size to all of their logits.

    What they have in common is there as often as they are: ``without_repeats`` merges it.

    Args:
        branches: As :func:`branch_of` gives them.
        calibration: Of these.
    """
    sizes = [next(iter(branch.inputs.values()))[2] for branch in branches]
    side = max(sizes)
    nodes: list[NodeProto] = []
    weights: dict[str, Array] = {}
    for number, (branch, size) in enumerate(zip(branches, sizes, strict=True)):
        fit = [smaller(side, size)] if size < side else []
        mine, arrays = _renamed(chained(f"part{number}", [*fit, branch]), f"part{number}")
        nodes += mine
        weights |= arrays
    classes = [branch.outputs[LOGITS][1] for branch in branches]
    tail, arrays = _tail(classes, calibration)
    return Network(
        name="combined", nodes=(*nodes, *tail), weights={**weights, **arrays},
        inputs={"images": (1, 3, side, side)}, outputs={LOGITS: (1, sum(classes))},
    )  # fmt: skip


def _tail(
    classes: Sequence[int], calibration: Calibration
) -> tuple[list[NodeProto], dict[str, Array]]:
    """From features and logits of all parts to the logits of the whole."""
    owner = np.repeat(np.arange(len(classes)), classes)
    features, logits = (
        [f"part{number}/{name}" for number in range(len(classes))] for name in (FEATURES, LOGITS)
    )
    weights = {
        "/gate.weight": (calibration.gate * calibration.weight[owner]).astype(np.float32),
        "/gate.bias": (
            calibration.gate * calibration.bias[owner] + np.array(calibration.shifts)[owner]
        ).astype(np.float32),
        "/scales": np.array(calibration.scales, np.float32)[owner][None],
    }
    nodes = [
        helper.make_node("Concat", features, ["seen"], name="seen", axis=1),
        helper.make_node(
            "Gemm", ["seen", "/gate.weight", "/gate.bias"], ["gate"], name="gate", transB=1
        ),
        helper.make_node("Concat", logits, ["raw"], name="raw", axis=1),
        helper.make_node("Mul", ["raw", "/scales"], ["scaled"], name="scaled"),
        helper.make_node("Add", ["scaled", "gate"], [LOGITS], name=LOGITS),
    ]
    return nodes, weights


def _renamed(network: Network, prefix: str) -> tuple[list[NodeProto], dict[str, Array]]:
    """Nodes and weights with a prefix before all names but that of the image."""
    names = {name: f"{prefix}/{name}" for name in network.weights}
    names |= {name: f"{prefix}/{name}" for node in network.nodes for name in node.output}
    ((entry, _),) = network.inputs.items()
    names[entry] = "images"
    nodes = []
    for node in network.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name or node.output[0]}"
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names[name] if name else "" for name in node.output]
        nodes.append(copy)
    return nodes, {names[name]: array for name, array in network.weights.items()}


def smaller(side: int, size: int) -> Network:
    """The image as a smaller branch wants it: means of pixels where these divide evenly.

    Args:
        side: Of "images" in pixels.
        size: Of "fitted".
    """
    weights: dict[str, Array] = {}
    if side % size == 0:
        step = [side // size] * 2
        node = helper.make_node(
            "AveragePool", ["images"], ["fitted"], name="fit", kernel_shape=step, strides=step
        )
    else:
        weights = {"/sizes": np.array([1, 3, size, size], np.int64)}
        node = helper.make_node(
            "Resize", ["images", "", "", "/sizes"], ["fitted"], name="fit", mode="linear"
        )
    return Network(
        name="fit", nodes=(node,), weights=weights, inputs={"images": (1, 3, side, side)},
        outputs={"fitted": (1, 3, size, size)},
    )  # fmt: skip
