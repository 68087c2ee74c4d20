"""What leaving channels out saves: families one by one, and what two that meet save only once.

A layer's cost is a product of its inputs and outputs. So what two families save in a layer that
both touch is the sum of what each saves, less an overlap that is a product again, exactly for
multiply-adds and parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
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
        alone = Costs(whole=whole, saved=saved, overlaps=_overlaps(anatomy, kind))
        found[kind] = _with_branches(anatomy, count, alone)
    return found


def _with_branches(anatomy: Anatomy, count: Callable[[Network], float], alone: Costs) -> Costs:
    """Costs in which nothing more is saved of a layer that goes with a branch."""
    overlaps = dict(alone.overlaps)
    for branch, other in _read_in_branches(anatomy):
        sizes = sizes_of(other)
        place = next(i for i, size in enumerate(sizes) if size)
        narrow = {branch.name: range(0), other.name: range(sizes[place])}
        together = alone.whole - count(narrowed(anatomy, narrow)[0])
        twice = alone.saved[branch.name][0] + alone.saved[other.name][place] - together
        one, two = (branch.name, other.name), (other.name, branch.name)
        known = alone.overlaps[one][0, place] if one in overlaps else 0.0
        known += alone.overlaps[two][place, 0] if two in overlaps else 0.0
        gone = gone_of(other)
        if gone[place] and abs(twice - known) > 1e-9 * alone.whole:
            more = np.zeros((len(sizes_of(branch)), len(sizes)))
            more[0] = (twice - known) * gone / gone[place]
            overlaps[one] = overlaps.get(one, 0.0) + more
    return Costs(whole=alone.whole, saved=alone.saved, overlaps=overlaps)


def _read_in_branches(anatomy: Anatomy) -> Iterator[tuple[Family, Family]]:
    """Branches, and families from outside that a layer reads which goes with one."""
    weights = anatomy.found.weights
    for branch in anatomy.families:
        gone = without(anatomy, branch) if branch.branch else set()
        touched: set[int] = set()
        for node in anatomy.network.nodes:
            if node.name in gone:
                touched |= {
                    int(group) for name in node.input[1:] for axis in (0, 1)
                    for group in weights.get((name, axis), ())
                }  # fmt: skip
        for other in anatomy.families:
            if other is not branch and other.maker not in gone and touched & set(other.groups):
                yield branch, other


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
