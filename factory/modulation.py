"""Scale and shift of every normalization, generated for a set of classes and a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .graph.network import Array, Network
from .graph.normalization import norm_nodes
from .schema import Slot


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Modulation:
    """What modulates the normalizations of a library's networks.

    Along a vector stand, for every normalization in graph order, the relative change of its scale
    and then its shift: gamma (1 + s) and beta + b; D numbers in all.

    Attributes:
        classes: (K, D) one vector per class; a task has the mean of its classes' vectors, so it
            exists for sets of classes that were never seen together.
        widths: (F, D) one vector per feature of a plan; see :func:`plan_features`.
    """

    classes: Array
    widths: Array


def modulation_width(network: Network) -> int:
    """D: a scale and a shift per normalized channel."""
    return sum(2 * len(network.weights[node.input[1]]) for node in norm_nodes(network))


def plan_features(blocks: Sequence[Slot], counts: Mapping[str, int], size: float) -> Array:
    """What a modulation knows of a plan, float32 (F,).

    Args:
        blocks: The library's block slots, B of them.
        counts: Active modules per block.
        size: Input size as a share of the largest one, in (0, 1].

    Returns:
        The share of modules that each block leaves out, whether it is skipped, and what the input
        lacks in size: 2 B + 1 numbers, all zero for the full plan.
    """
    left_out = [1 - counts[slot.name] / slot.groups for slot in blocks]
    skipped = [float(counts[slot.name] == 0) for slot in blocks]
    return np.array([*left_out, *skipped, 1 - size], np.float32)


def modulated(
    network: Network, modulation: Modulation, classes: Sequence[int], features: Array
) -> Network:
    """The network with its normalizations modulated; same shapes and cost.

    Args:
        network: A library's network, normalization unfolded.
        modulation: The library's.
        classes: The task's classes.
        features: The plan's, (F,).

    Source:
        Conditional normalization as in Perez et al., "FiLM", arXiv:1709.07871; here the condition
        is known when linking, so it costs nothing at inference.
    """
    vector = modulation.classes[list(classes)].astype(np.float32).mean(0)
    vector = vector + features @ modulation.widths.astype(np.float32)
    weights, start = dict(network.weights), 0
    for node in norm_nodes(network):
        gamma, beta = node.input[1], node.input[2]
        channels = len(weights[gamma])
        scale, shift = vector[start : start + 2 * channels].reshape(2, channels)
        weights[gamma] = weights[gamma] * (1 + scale)
        weights[beta] = weights[beta] + shift
        start += 2 * channels
    return replace(network, weights=weights)
