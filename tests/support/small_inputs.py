"""Images for small networks, what they answer, half of them, and what tables say they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from small_networks import CLASSES, SIDE

from nnfactory.factory.datasets import Images
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Array, Network
from nnfactory.factory.reuse.disassembly.costs import Costs, sizes_of
from nnfactory.factory.reuse.disassembly.families import Anatomy


def pictures(count: int) -> Images:
    """Labelled images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return Images(pixels=pixels, labels=np.arange(count) % CLASSES, boxes=())


def images(count: int, seed: int = 0) -> list[Array]:
    """Noise as tensors (1, 3, S, S)."""
    rng = np.random.default_rng(seed)
    return [rng.random((1, 3, SIDE, SIDE), dtype=np.float32) for _ in range(count)]


def logits(network: Network, inputs: Sequence[Array]) -> Array:
    """All answers, (N, K)."""
    return np.concatenate([run_network(network, {"images": x})["logits"] for x in inputs])


def halved(anatomy: Anatomy) -> dict[str, list[int]]:
    """Every second channel of all families."""
    return {f.name: list(range(0, len(f.groups), 2)) for f in anatomy.families}


def by_table(found: Anatomy, costs: Costs, sizes: Mapping[str, int]) -> float:
    """Cost of sizes, by hand."""
    place = {f.name: sizes_of(f).index(sizes[f.name]) for f in found.families}
    saved = sum(costs.saved[name][at] for name, at in place.items())
    twice = sum(both[place[a], place[b]] for (a, b), both in costs.overlaps.items())
    return costs.whole - saved + twice
