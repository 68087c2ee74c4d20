"""What the layers that read channels lose without them, when the others make up for it.

A layer's output is linear in its inputs, so how much of it the remaining channels can still make
follows from the covariance of the inputs alone: nothing is fitted, nothing is tried. Channels are
taken away one step after another, always those that cost least; what they cost is the value that
the choice is made by.

Source:
    The optimal brain surgeon (Hassibi and Stork, 1993) on groups of weights, as ZipLM (Kurtic,
    Frantar and Alistarh, arXiv:2302.04089) uses it for parts of transformers; here channels of
    convolutions, with several readers, on images of the task alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ...graph.evaluate import open_model
from ...graph.network import Array, model_from_network, tensor_shapes
from ..threads import small_matrices
from .families import Anatomy, Family, input_axis
from .layer_inputs import positions, rows_at

ROWS = 16  # positions of an image, at most
DAMPING = 1e-3  # of the covariance, as a share of the mean variance
STEPS = 32  # in which a family is taken away
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Losses:
    """What a family's channels are worth together.

    Attributes:
        order: Positions of the channels, those that go last first, (C,).
        lost: Per number of channels that stay, the share of the variance of what the readers' sums
            are that is lost, (C + 1,); 0 at the end.
    """

    order: Array
    lost: Array


def losses_of(
    anatomy: Anatomy, images: Sequence[Array], *,
    report: Report = lambda phase, done, total: None,
) -> dict[str, Losses]:  # fmt: skip
    """What every family of a network loses, channel by channel.

    Args:
        anatomy: The network.
        images: As it reads them, of the task.
        report: Called with ("families", done, total).

    Returns:
        By name of the family.
    """
    moments = _moments(anatomy, images)
    found = {}
    for done, family in enumerate(anatomy.families, 1):
        with small_matrices():
            found[family.name] = _taken_away(anatomy, family, moments)
        report("families", done, len(anatomy.families))
    return found


@dataclass(slots=True, kw_only=True, eq=False)
class _Moments:
    """Of the inputs of a layer, with a one behind them, and of its sum with a stream."""

    count: int = 0
    first: Array | float = 0.0
    second: Array | float = 0.0
    sums: Array | float = 0.0
    squares: Array | float = 0.0

    def covariance(self) -> Array:
        """Of the inputs, (F, F)."""
        mean = np.asarray(self.first) / self.count
        return np.asarray(self.second) / self.count - np.outer(mean, mean)

    def variance(self) -> float:
        """Of the sum, over all channels."""
        mean = np.asarray(self.sums) / self.count
        return float((np.asarray(self.squares) / self.count - mean**2).sum())


def _moments(anatomy: Anatomy, images: Sequence[Array]) -> dict[str, _Moments]:
    """By reader."""
    network = anatomy.network
    readers = list(dict.fromkeys(name for f in anatomy.families for name in f.readers))
    nodes = {name: anatomy.node(name) for name in readers}
    sums = {name: sum_of(anatomy, nodes[name].output[0]) for name in readers}
    shapes = tensor_shapes(network)
    wanted = {nodes[name].input[0] for name in readers} | set(sums.values())
    inside = {name for name in wanted if name not in network.inputs}
    tapped = replace(network, outputs={name: shapes[name] for name in inside})
    run, (entry,) = open_model(model_from_network(tapped)), network.inputs
    found = {name: _Moments() for name in readers}
    most = max(int(np.prod(shapes[name][2:])) for name in sums.values())
    drawn = np.random.default_rng(0).random((len(images), most))

    def values(image: Array) -> dict[str, Array]:
        return {entry: image, **run({entry: image})}

    with ThreadPoolExecutor(os.cpu_count()) as workers, small_matrices():
        for number, made in enumerate(workers.map(values, images)):
            for name, node in nodes.items():
                total = made[sums[name]][0]
                places = positions(total.shape, drawn[number], ROWS)
                kernel = network.weights[node.input[1]].shape[2:]
                x = rows_at(node, kernel, made[node.input[0]][0], places, total.shape[-1])
                _add(found[name], x, total.reshape(len(total), -1)[:, places].T)
    return found


def _add(moments: _Moments, x: Array, total: Array) -> None:
    x, total = x.astype(np.float64), total.astype(np.float64)
    moments.count += len(x)
    moments.first = moments.first + x.sum(0)
    moments.second = moments.second + x.T @ x
    moments.sums = moments.sums + total.sum(0)
    moments.squares = moments.squares + (total**2).sum(0)


def sum_of(anatomy: Anatomy, tensor: str) -> str:
    """The sum that a tensor goes into and nowhere else; the tensor itself if there is none."""
    after = [node for node in anatomy.network.nodes if tensor in node.input]
    if len(after) == 1 and after[0].op_type == "Add":
        return str(after[0].output[0])
    return tensor


@dataclass(slots=True, kw_only=True, eq=False)
class _Reader:
    """A layer on its way to fewer inputs.

    Attributes:
        weights: (F, Q).
        inverse: Of the covariance of its inputs that are left, (F, F).
        columns: Per channel of the family the rows of ``weights``, (C, k).
        scale: Variance of the sum.
    """

    weights: Array
    inverse: Array
    columns: Array
    scale: float

    def costs(self, left: Array) -> Array:
        """What taking each channel away would lose."""
        rows = self.columns[left]
        blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
        mine = self.weights[rows]
        parts = np.einsum("ckq,ckq->c", mine, np.linalg.solve(blocks, mine))
        return np.asarray(parts / self.scale)

    def take(self, channels: Array) -> float:
        """Take channels away together; what that loses."""
        rows = self.columns[channels].reshape(-1)
        block, mine = self.inverse[np.ix_(rows, rows)], self.weights[rows]
        solved = np.linalg.solve(block, mine)
        lost = float(np.einsum("kq,kq->", mine, solved)) / self.scale
        beside = self.inverse[:, rows]
        self.weights -= beside @ solved
        self.inverse -= beside @ np.linalg.solve(block, beside.T)
        self.weights[rows] = 0
        self.inverse[rows] = 0
        self.inverse[:, rows] = 0
        self.inverse[rows, rows] = 1
        return max(0.0, lost)


def _taken_away(anatomy: Anatomy, family: Family, moments: dict[str, _Moments]) -> Losses:
    """The family channel by channel, those that cost least first."""
    readers = [_reader(anatomy, family, name, moments[name]) for name in family.readers]
    count = len(family.groups)
    left, gone = np.arange(count), []
    lost = np.zeros(count + 1)
    total, step = 0.0, max(1, count // STEPS)
    while len(left):
        costs = sum(reader.costs(left) for reader in readers)
        taken = left[np.argsort(costs, kind="stable")[:step]]
        before = total
        total += sum(reader.take(taken) for reader in readers)
        for each in range(len(taken)):  # within a step the loss rises evenly
            part = (each + 1) / len(taken)
            lost[len(left) - 1 - each] = before + part * (total - before)
        gone += taken.tolist()
        left = np.setdiff1d(left, taken)
    return Losses(order=np.array(gone[::-1]), lost=lost)


def _reader(anatomy: Anatomy, family: Family, name: str, moments: _Moments) -> _Reader:
    node = anatomy.node(name)
    weight = anatomy.network.weights[node.input[1]]
    axis = input_axis(node)
    matrix = np.moveaxis(weight, axis, 0)  # (C, Q, ..)
    matrix = matrix.reshape(*matrix.shape[:2], -1).transpose(0, 2, 1)  # (C, k, Q)
    channels, k, outputs = matrix.shape
    groups = anatomy.found.weights[node.input[1], axis]
    columns = np.stack(
        [
            (np.flatnonzero(groups == group)[:, None] * k + np.arange(k)).reshape(-1)
            for group in family.groups
        ]
    )
    covariance = moments.covariance()
    covariance[np.diag_indices_from(covariance)] += (
        DAMPING * np.trace(covariance) / len(covariance) + 1e-12
    )
    return _Reader(
        weights=matrix.reshape(channels * k, outputs).astype(np.float64),
        inverse=np.linalg.inv(covariance), columns=columns,
        scale=max(moments.variance(), 1e-12),
    )  # fmt: skip
