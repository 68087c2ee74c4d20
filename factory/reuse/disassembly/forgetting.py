"""What is known of classes that a component leaves out: taking it away, and measuring what is left.

What serves a class that is to be forgotten more than those that stay goes first. Networks share
most of what they compute among classes, so a class whose output is gone can still be told apart by
what lies before it; how well a linear layer could is measured, not assumed away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...graph.evaluate import open_model
from ...graph.network import Array, Network, model_from_network, tensor_shapes
from .reconstruction import Losses

SELECTIVE = 2.0  # times as much of the forgotten logits flows through what is better gone
RIDGE = 1e-2  # as a share of the mean variance of a feature


def losses_of_forgetting(
    kept: Mapping[str, Array], forgotten: Mapping[str, Array]
) -> dict[str, Losses]:
    """What families lose when channels that serve the forgotten classes are better gone.

    A channel is worth the share of the kept classes' logits that flows through it, less a part of
    that of the forgotten ones; so a loss may be below zero.

    Args:
        kept: As :func:`.relevance.flows` gives it for the classes that stay, (K, C) per family.
        forgotten: For the others.
    """
    found = {}
    for name, rows in kept.items():
        worth = rows.mean(0) - forgotten[name].mean(0) / SELECTIVE
        order = np.argsort(-worth, kind="stable")
        lost = np.concatenate([[worth.sum()], worth.sum() - np.cumsum(worth[order])])
        found[name] = Losses(order=order, lost=lost)
    return found


def readout(
    network: Network, fitting: tuple[Sequence[Array], Array], testing: tuple[Sequence[Array], Array]
) -> float:
    """How well a linear layer on a network's last features tells some images from all others.

    Args:
        network: It ends in a linear layer.
        fitting: Tensors to fit that layer to, and whether each shows what is asked for, (N,).
        testing: Others to measure it on.

    Returns:
        The chance that an image that shows it is given more than one that does not (the area under
        the ROC curve): 0.5 where nothing is known, 1 where everything is.
    """
    x, y = _features(network, fitting[0]), fitting[1].astype(np.float64)
    center, spread = x.mean(0), x.std(0) + 1e-9
    x, y = (x - center) / spread, y - y.mean()
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += RIDGE * len(x)
    scores = (_features(network, testing[0]) - center) / spread @ np.linalg.solve(gram, x.T @ y)
    shows = testing[1].astype(bool)
    above = scores[shows][:, None] - scores[~shows][None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def _features(network: Network, images: Sequence[Array]) -> Array:
    """Inputs of the last layer, (N, F)."""
    name = network.nodes[-1].input[0]
    tapped = replace(network, outputs={name: tensor_shapes(network)[name]})
    run, (entry,) = open_model(model_from_network(tapped)), network.inputs
    return np.concatenate([run({entry: image})[name] for image in images]).astype(np.float64)
