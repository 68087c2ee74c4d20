"""Taking several networks apart into blocks that correspond: what that means, and steps to it.

Block k of every network is to resemble one anchor, block k of one of them, in what goes in and in
what comes out.

Source:
    Yang et al., "Deep Model Reassembly" (DeRy), arXiv:2210.17409, equations 3 to 5, with
    S(B, B') = s(out, out') + s(in, in'). There blocks move over a border one at a time while that
    helps; here the best borders of a network for given anchors are a shortest path, and anchors
    are exact medoids. Sets stand in the order of the blocks. ``joint_partition.py`` chooses
    borders and anchors at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError, SpecError
from ..graph.network import Array

SLACK = 0.2  # a block holds at most 1.2 times its even share of a network's size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """The places where a network can be taken apart.

    Attributes:
        name: Of the network.
        rows: Which row of the similarities each place is, from the input to the end, (L + 1,).
        sizes: Parameters before each place, rising from 0, (L + 1,).
    """

    name: str
    rows: Array
    sizes: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Blocks of all networks.

    Attributes:
        cuts: Per network the places 0 = c0 < c1 < .. < cK = L.
        anchors: Per block the network whose block is the anchor.
        objective: Sum over networks and blocks of the similarity to the anchor.
        bound: No partition has a greater objective; infinite where nothing is proven.
    """

    cuts: tuple[tuple[int, ...], ...]
    anchors: tuple[int, ...]
    objective: float
    bound: float = math.inf


def alternated(
    chains: Sequence[Chain], similarity: Array, blocks: int, *, slack: float = SLACK,
    restarts: int = 20, seed: int = 0,
) -> Partition:  # fmt: skip
    """The best partition of several starts; from each start neither step can improve it.

    Args:
        chains: At least one network.
        similarity: Of every two places of all networks, (M, M).
        blocks: Number of blocks K.
        slack: A block holds at most ``(1 + slack) / K`` of its network's parameters; of a network
            that has no such partition at most what the most even one has.
        restarts: Random partitions to start from.
        seed: Of the starts.

    Raises:
        DataError: A network has fewer places than blocks.
        SpecError: There is nothing to divide, or into nothing.
    """
    if not chains or blocks < 1 or restarts < 1:
        raise SpecError("A partition needs a network, a block and a start, at least one of each.")
    rng = np.random.default_rng(seed)
    slacks = [max(slack, least_slack(chain, blocks)) for chain in chains]
    best: Partition | None = None
    for _ in range(restarts):
        cuts = [
            _random_cuts(chain, blocks, own, rng) for chain, own in zip(chains, slacks, strict=True)
        ]
        found = _settled(chains, similarity, cuts, slacks)
        if best is None or found.objective > best.objective:
            best = found
    assert best is not None
    return best


def objective(
    chains: Sequence[Chain], similarity: Array, cuts: Sequence[Sequence[int]],
    anchors: Sequence[int],
) -> float:  # fmt: skip
    """Sum over networks and blocks of the similarity to the anchor."""
    places = _places(chains, cuts)
    table = similarity[places[:, None], places[None]]  # (N, N, K + 1)
    pairs = table[..., 1:] + table[..., :-1]
    return float(sum(pairs[:, anchor, k].sum() for k, anchor in enumerate(anchors)))


def medoids(
    chains: Sequence[Chain], similarity: Array, cuts: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """Per block the network whose block is most like those of all others."""
    places = _places(chains, cuts)
    table = similarity[places[:, None], places[None]]
    return tuple(int(k) for k in (table[..., 1:] + table[..., :-1]).sum(0).argmax(0))


def least_slack(chain: Chain, blocks: int) -> float:
    """The slack of the most even partition of a network.

    Raises:
        DataError: It has fewer places than blocks.
    """
    last = len(chain.rows) - 1
    if last < blocks:
        raise DataError(
            f"'{chain.name}' cannot be divided into {blocks} blocks: it has {last - 1} cut points.",
            hints=["ask for fewer blocks"],
        )
    least = chain.sizes.astype(np.float64)  # of the largest block up to each place
    for _ in range(blocks - 1):
        least = np.array(
            [np.inf]
            + [
                min(
                    max(least[start], chain.sizes[stop] - chain.sizes[start])
                    for start in range(stop)
                )
                for stop in range(1, last + 1)
            ]
        )
    return float(least[last] * blocks / max(1, chain.sizes[last]) - 1)


def best_cuts(chain: Chain, gains: Array, slack: float) -> tuple[int, ...]:
    """The partition of greatest gain of one network, by dynamic programming over its places.

    Args:
        chain: The network.
        gains: Per block and place what it gains to begin and to end there, (K, 2, L + 1).
        slack: As in :func:`partition`.

    Raises:
        DataError: There is none.
    """
    blocks, last = len(gains), len(chain.rows) - 1
    allowed = size_allowed(chain, blocks, slack)  # (L + 1, L + 1): from, to
    reached = np.where(np.arange(last + 1) == 0, 0.0, -np.inf)
    origins = []
    for begins, ends in gains:
        ways = np.where(allowed, (reached + begins)[:, None] + ends[None], -np.inf)
        origins.append(ways.argmax(0))
        reached = ways.max(0)
    if not np.isfinite(reached[last]):
        raise DataError(
            f"'{chain.name}' cannot be divided into {blocks} blocks of at most "
            f"{(1 + slack) / blocks:.0%} of its parameters each.",
            hints=["ask for fewer blocks, or allow more slack"],
        )
    cuts = [last]
    for origin in reversed(origins):
        cuts.append(int(origin[cuts[-1]]))
    return tuple(reversed(cuts))


def size_allowed(chain: Chain, blocks: int, slack: float) -> Array:
    """Which (from, to) may be a block, (L + 1, L + 1).

    Args:
        chain: The network.
        blocks: Number of blocks K.
        slack: A block holds at most ``(1 + slack) / K`` of the network's parameters.
    """
    size = chain.sizes[None] - chain.sizes[:, None]
    order = np.arange(len(chain.rows))
    limit = (1 + slack) * chain.sizes[-1] / blocks
    return np.asarray((order[None] > order[:, None]) & (size <= limit + 1e-9))


def _settled(
    chains: Sequence[Chain],
    similarity: Array,
    cuts: Sequence[tuple[int, ...]],
    slacks: Sequence[float],
) -> Partition:
    """Medoids and partitions in turn, until neither is better."""
    best = -np.inf
    while True:
        anchors = medoids(chains, similarity, cuts)
        places = _places(chains, cuts)
        anchor_rows = np.array([places[j, k : k + 2] for k, j in enumerate(anchors)])  # (K, 2)
        new = [
            best_cuts(chain, similarity[anchor_rows][:, :, chain.rows], slack)
            for chain, slack in zip(chains, slacks, strict=True)
        ]
        # the anchors stay blocks: a chain that is moved off its anchor has another one next time
        reached = objective(chains, similarity, new, medoids(chains, similarity, new))
        if reached <= best + 1e-12:
            return Partition(
                cuts=tuple(cuts), anchors=anchors,
                objective=objective(chains, similarity, cuts, anchors),
            )  # fmt: skip
        cuts, best = new, reached


def _places(chains: Sequence[Chain], cuts: Sequence[Sequence[int]]) -> Array:
    """Rows of the similarities where the networks are cut, (N, K + 1)."""
    return np.array([chain.rows[list(mine)] for chain, mine in zip(chains, cuts, strict=True)])


def _random_cuts(
    chain: Chain, blocks: int, slack: float, rng: np.random.Generator
) -> tuple[int, ...]:
    return best_cuts(chain, rng.random((blocks, 2, len(chain.rows))), slack)
