"""Normalization statistics of any plan, predicted from those of sampled plans; needs no images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from .errors import DataError
from .graph.network import Array, Network
from .graph.normalization import Moments, norm_nodes
from .library.library import ModuleLibrary
from .schema import Slot

NEIGHBORS = 8  # sampled plans whose residuals correct the regression
NEARNESS = 0.1  # distance at which a neighbor's weight has fallen to a quarter
RIDGE = 2e-3  # of the number of sampled plans


@dataclass(frozen=True, slots=True)
class _NodeModel:
    """Mean and log standard deviation at one normalization, as functions of a plan.

    ``upstream`` are the blocks that it depends on. ``coefficients`` (F, 2C) belong to
    :func:`_features` of their shares; ``residuals`` (S, 2C) are what the fit leaves at the sampled
    plans, ``shares`` (S, U) where those lie. Nothing outside what was seen, ``lowest`` to
    ``highest``, is predicted. ``shift`` is what the full plan lacks from its own statistics at the
    largest input size, which are those of the training; zero at the smaller ones.
    """

    upstream: tuple[int, ...]
    coefficients: Array
    residuals: Array
    shares: Array
    lowest: Array
    highest: Array
    shift: Array

    def predict(self, shares: Array) -> Moments:
        """Mean and variance (C,) for the shares (B,) of active groups per block."""
        mine = shares[list(self.upstream)]
        both = _features(mine[None])[0] @ self.coefficients
        distance = np.linalg.norm(self.shares - mine, axis=1)
        nearest = np.argsort(distance, kind="stable")[:NEIGHBORS]
        weight = 1 / (distance[nearest] + NEARNESS) ** 2
        found = both + (weight / weight.sum()) @ self.residuals[nearest]
        mean, log_std = np.split(np.clip(found, self.lowest, self.highest) + self.shift, 2)
        return mean.astype(np.float32), np.exp(2 * log_std).astype(np.float32)


def stored_moments(library: ModuleLibrary, counts: Mapping[str, int]) -> dict[str, Moments]:
    """Mean and variance at every normalization of a plan, by node name.

    Per channel a ridge regression on the widths of the blocks before it, corrected by the
    residuals of the nearest sampled plans; all of it moved so that the full plan gets, at the
    largest input size, the statistics it was trained with, which average over far more images
    (smaller sizes have none to move to). How good that is on validation images stands in
    ``library.toml`` under ``[normalization.validation]``.

    Args:
        library: Holds the moments of sampled plans.
        counts: Active groups per block.

    Raises:
        DataError: The library holds no statistics.
    """
    shares = np.array([counts[slot.name] / slot.groups for slot in library.blocks])
    return {node: model.predict(shares) for node, model in _node_models(library).items()}


@lru_cache(maxsize=8)
def _node_models(library: ModuleLibrary) -> dict[str, _NodeModel]:
    """One model per normalization, fitted once per library and input size."""
    models = _fitted(library)
    if library.input_size != max(library.input_sizes):
        return models
    weights = library.network.weights
    return {
        node.name: replace(
            models[node.name],
            shift=_shift(
                models[node.name], (weights[node.input[3]], weights[node.input[4]]),
                len(library.blocks),
            ),
        )
        for node in norm_nodes(library.network)
    }  # fmt: skip


def _fitted(library: ModuleLibrary) -> dict[str, _NodeModel]:
    """The models, not moved yet."""
    statistics = library.statistics
    if statistics is None:
        raise DataError(f"Library '{library.name}' holds no statistics.")
    groups = np.array([slot.groups for slot in library.blocks])
    shares = statistics.counts / groups
    upstream = upstream_blocks(library.network, library.blocks)
    owner = {node: index for index, slot in enumerate(library.blocks) for node in slot.nodes}
    models = {}
    for node, blocks in upstream.items():
        # The inside of a skipped block ran with all its groups, which says nothing here.
        skipped = node in owner and owner[node] in blocks
        rows = statistics.counts[:, owner[node]] > 0 if skipped else np.full(len(shares), True)
        log_std = 0.5 * np.log(np.maximum(statistics.variance[node][rows], 1e-12))
        target = np.concatenate((statistics.mean[node][rows], log_std), 1).astype(np.float64)
        here = shares[rows][:, list(blocks)]
        x = _features(here)
        penalty = RIDGE * len(x) * np.eye(x.shape[1])
        penalty[0, 0] = 0.0
        coefficients = np.linalg.solve(x.T @ x + penalty, x.T @ target)
        models[node] = _NodeModel(
            blocks, coefficients, target - x @ coefficients, here, target.min(0), target.max(0),
            np.zeros(target.shape[1]),
        )  # fmt: skip
    return models


def _shift(model: _NodeModel, trained: Moments, blocks: int) -> Array:
    """What must be added so that the full plan gets the statistics it was trained with."""
    mean, variance = model.predict(np.ones(blocks))
    log_std = 0.5 * np.log(np.maximum(trained[1], 1e-12) / np.maximum(variance, 1e-12))
    return np.concatenate((trained[0] - mean, log_std))


def _features(shares: Array) -> Array:
    """(N, 1 + 3U): one, share, root of the share, and whether the block runs at all."""
    ones = np.ones((len(shares), 1))
    return np.concatenate((ones, shares, np.sqrt(shares), (shares > 0).astype(float)), 1)


def upstream_blocks(network: Network, blocks: tuple[Slot, ...]) -> dict[str, tuple[int, ...]]:
    """Per normalization the positions of the blocks whose width its input depends on."""
    gates = {name: index for index, slot in enumerate(blocks) for name in slot.gated}
    before: dict[str, set[int]] = {}  # of every tensor, without the block whose gate it is
    for node in network.nodes:
        above = [before.get(source, set()) for source in node.input]
        own = {gates[source] for source in node.input if source in gates}
        before |= dict.fromkeys(node.output, own.union(*above))
    return {n.name: tuple(sorted(before.get(n.input[0], ()))) for n in norm_nodes(network)}
