"""Task-conditioned scale and shift of every normalization, generated for a set of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .graph.network import Array, Network
from .graph.normalization import norm_nodes


def modulation_width(network: Network) -> int:
    """Numbers of one modulation: a scale and a shift per normalized channel."""
    return sum(2 * len(network.weights[node.input[1]]) for node in norm_nodes(network))


def modulated(network: Network, vectors: Array, classes: Sequence[int]) -> Network:
    """The network with its normalizations modulated for a set of classes; same shapes and cost.

    A modulation is the mean of one learned vector per class, so it exists for sets of classes
    that were never seen together. Along a vector stand, for every normalization in graph order,
    the relative change of its scale and then its shift: gamma (1 + s) and beta + b.

    Args:
        network: A library's network, normalization unfolded.
        vectors: (K, D) one vector per class, D as :func:`modulation_width` says.
        classes: The task's classes.

    Source:
        Conditional normalization as in Perez et al., "FiLM", arXiv:1709.07871; here the condition
        is a set of classes, and since it is known when linking it costs nothing at inference.
    """
    mean = vectors[list(classes)].astype(np.float32).mean(0)
    weights, start = dict(network.weights), 0
    for node in norm_nodes(network):
        gamma, beta = node.input[1], node.input[2]
        channels = len(weights[gamma])
        scale, shift = mean[start : start + 2 * channels].reshape(2, channels)
        weights[gamma] = weights[gamma] * (1 + scale)
        weights[beta] = weights[beta] + shift
        start += 2 * channels
    return replace(network, weights=weights)
