"""What leaving channels out saves: families one by one, and what two that meet save only once.

A layer's cost is a product of its inputs and outputs. So what two families save in a layer that
both touch is the sum of what each saves, less an overlap that is a product again, exactly for
multiply-adds and parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...graph.costs import op_costs, parameter_count
from ...graph.network import Array, Network, tensor_shapes
from .families import Anatomy, Family, input_axis, mixes, narrowed

LEVELS = 8  # sizes of a family, besides nothing
Report = Callable[[str, int, int], None]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Costs:
    """One kind of cost.

    Attributes:
        whole: Of the whole network.
        saved: Per family, and per size in :func:`sizes_of`, what it saves by itself.
        overlaps: Per pair of families, and per size of one and of the other, what both save twice.
    """

    whole: float
    saved: Mapping[str, Array]
    overlaps: Mapping[Pair, Array]


def sizes_of(family: Family) -> tuple[int, ...]:
    """How many channels may stay, rising; 0 only where the family is all of a branch."""
    count = len(family.groups)
    sizes = {max(1, round(count * level / LEVELS)) for level in range(1, LEVELS + 1)}
    return ((0,) if family.branch else ()) + tuple(sorted(sizes))


def counted(anatomy: Anatomy) -> dict[str, Costs]:
    """Exact costs: "mparams" and "mmacs"."""
    counters: dict[str, Callable[[Network], float]] = {"mparams": _mparams, "mmacs": _mmacs}
    found = {}
    for kind, count in counters.items():
        whole, saved = count(anatomy.network), {}
        for family in anatomy.families:
            sizes = np.array(sizes_of(family))
            least = int(sizes[sizes > 0][0])
            spared = whole - count(_at(anatomy, family, least))  # as much for every channel
            rows = spared * (len(family.groups) - sizes) / max(1, len(family.groups) - least)
            if family.branch:
                rows[0] = whole - count(_at(anatomy, family, 0))
            saved[family.name] = rows
        found[kind] = Costs(whole=whole, saved=saved, overlaps=_overlaps(anatomy, kind))
    return found


def left_of(anatomy: Anatomy, costs: Costs, sizes: Mapping[str, int]) -> float:
    """What is left of a cost when every family has one of its :func:`sizes_of`."""
    place = {f.name: sizes_of(f).index(sizes[f.name]) for f in anatomy.families}
    saved = sum(costs.saved[name][at] for name, at in place.items())
    twice = sum(both[place[one], place[other]] for (one, other), both in costs.overlaps.items())
    return float(costs.whole - saved + twice)


def gone_of(family: Family) -> Array:
    """Share of a family that is gone, per size."""
    return np.asarray(1 - np.array(sizes_of(family)) / len(family.groups))


def dependents(anatomy: Anatomy, family: Family) -> list[str]:
    """Families that are gone when a branch is."""
    gone = without(anatomy, family)
    return [f.name for f in anatomy.families if f is not family and f.maker in gone]


def without(anatomy: Anatomy, family: Family) -> set[str]:
    """Names of the nodes that are gone when a branch is."""
    alive = {node.name for node in _at(anatomy, family, 0).nodes}
    return {node.name for node in anatomy.network.nodes} - alive


def _at(anatomy: Anatomy, family: Family, size: int) -> Network:
    network, _ = narrowed(anatomy, {family.name: range(size)})
    return network


def _mparams(network: Network) -> float:
    return parameter_count(network) / 1e6


def _mmacs(network: Network) -> float:
    return sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6


def _overlaps(anatomy: Anatomy, kind: str) -> dict[Pair, Array]:
    """Cost of each layer that mixes two families, as far as it is theirs."""
    network, found = anatomy.network, anatomy.found
    gone = {family.name: gone_of(family) for family in anatomy.families}
    macs = {row.name: row.macs for row in op_costs(network, tensor_shapes(network))}
    owner = {group: family.name for family in anatomy.families for group in family.groups}
    overlaps: dict[Pair, Array] = {}
    for node in network.nodes:
        if not mixes(node) or node.input[1] not in network.weights:
            continue
        axis = input_axis(node)
        total = macs[node.name] if kind == "mmacs" else network.weights[node.input[1]].size
        shares = [shares_of(found.weights.get((node.input[1], side)), owner)
                  for side in (axis, 1 - axis)]  # fmt: skip
        for (one, p), (other, q) in itertools.product(*(part.items() for part in shares)):
            twice = p * q * total / 1e6 * np.outer(gone[one], gone[other])
            overlaps[one, other] = overlaps.get((one, other), 0.0) + twice
    return overlaps


def shares_of(groups: Array | None, owner: Mapping[int, str]) -> dict[str, float]:
    """Which families positions along an axis belong to."""
    shares: dict[str, float] = {}
    every: list[int] = [] if groups is None else groups.tolist()
    for group in every:
        if group in owner:
            shares[owner[group]] = shares.get(owner[group], 0.0) + 1 / len(every)
    return shares
