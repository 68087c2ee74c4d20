"""What leaving channels out saves: families one by one, and what two that meet save only once.

A layer's cost is a product of its inputs and outputs. So what two families save in a layer that
both touch is the sum of what each saves, less an overlap that is a product again, exactly for
multiply-adds and parameters. Latency follows the same law by what a multiply-add costs there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...graph.costs import op_costs, parameter_count
from ...graph.network import Array, Network, tensor_shapes
from .families import Anatomy, Family, input_axis, mixes, narrowed

LEVELS = 8  # sizes of a family, besides nothing
MEASURED = (0.25, 0.5, 0.75)  # shares at which latency is measured
Report = Callable[[str, int, int], None]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Costs:
    """One kind of cost.

    Attributes:
        whole: Of the whole network.
        saved: Per family, and per size in :func:`sizes_of`, what it saves by itself.
        overlaps: Per pair of families what both save twice when both are gone as a whole.
    """

    whole: float
    saved: Mapping[str, Array]
    overlaps: Mapping[Pair, float]


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
            spared = whole - count(_at(anatomy, [family], least))  # as much for every channel
            rows = spared * (len(family.groups) - sizes) / max(1, len(family.groups) - least)
            if family.branch:
                rows[0] = whole - count(_at(anatomy, [family], 0))
            saved[family.name] = rows
        found[kind] = Costs(whole=whole, saved=saved, overlaps=_overlaps(anatomy, kind))
    return found


def timed(
    anatomy: Anatomy, latency_ms: Callable[[Network], float], macs: Costs, *,
    report: Report = lambda phase, done, total: None,
) -> Costs:  # fmt: skip
    """Latency, from whole networks in which families of one shape are smaller, and all of them.

    What all families save together is more than the sum of what each does where runtimes work on
    blocks of channels of which one family is a part. The difference is divided among them by their
    multiply-adds.

    Args:
        anatomy: The network.
        latency_ms: Milliseconds of a network.
        macs: What :func:`counted` says of multiply-adds.
        report: Called with ("latency", done, total).
    """
    shapes: dict[tuple[object, ...], list[Family]] = {}
    for family in anatomy.families:
        shapes.setdefault((family.shape, bool(family.branch)), []).append(family)
    whole, saved, done = latency_ms(anatomy.network), {}, 0
    for alike in shapes.values():
        apart = _apart(anatomy, alike)
        count = len(alike[0].groups)
        shares, spared = [1.0], [0.0]
        for share in reversed(MEASURED):
            size = max(1, round(count * share))
            shares.append(size / count)
            spared.append((whole - latency_ms(_at(anatomy, apart, size))) / len(apart))
        spared = np.maximum.accumulate(np.array(spared)).tolist()
        gone = 0.0
        if alike[0].branch:
            gone = max(spared[-1], (whole - latency_ms(_at(anatomy, apart, 0))) / len(apart))
        for family in alike:
            saved[family.name] = np.array(
                [_between(size / count, shares, spared) if size else gone
                 for size in sizes_of(family)]
            )  # fmt: skip
        done += len(alike)
        report("latency", done, len(anatomy.families))
    rates = {name: _rate(saved[name], macs.saved[name]) for name in saved}
    overlaps = {
        pair: value * min(rates[pair[0]], rates[pair[1]]) for pair, value in macs.overlaps.items()
    }
    alone = Costs(whole=whole, saved=saved, overlaps=overlaps)
    return _together(anatomy, latency_ms, alone, macs)


def left_of(anatomy: Anatomy, costs: Costs, sizes: Mapping[str, int]) -> float:
    """What is left of a cost when families have some sizes, which need be none of sizes_of."""
    gone = {f.name: 1 - sizes[f.name] / len(f.groups) for f in anatomy.families}
    saved = sum(
        float(np.interp(sizes[f.name], sizes_of(f), costs.saved[f.name])) for f in anatomy.families
    )
    twice = sum(v * gone[one] * gone[other] for (one, other), v in costs.overlaps.items())
    return float(costs.whole - saved + twice)


def _together(
    anatomy: Anatomy, latency_ms: Callable[[Network], float], alone: Costs, macs: Costs
) -> Costs:
    """Latency by which families save together what they do when all of them are smaller."""
    shares, missing = [0.0], [0.0]
    for share in reversed(MEASURED):
        sizes = {f.name: max(1, round(len(f.groups) * share)) for f in anatomy.families}
        network, _ = narrowed(anatomy, {name: range(size) for name, size in sizes.items()})
        shares.append(1 - share)
        missing.append(left_of(anatomy, alone, sizes) - latency_ms(network))
    work = {name: float(rows.max()) for name, rows in macs.saved.items()}
    saved = {}
    for family in anatomy.families:
        sizes_here = np.array(sizes_of(family))
        gone = 1 - sizes_here / len(family.groups)
        more = np.interp(gone, shares, missing) * work[family.name] / sum(work.values())
        rows = np.maximum(alone.saved[family.name] + more, 0)
        saved[family.name] = np.maximum.accumulate(rows[::-1])[::-1]  # less never costs more
    return Costs(whole=alone.whole, saved=saved, overlaps=alone.overlaps)


def dependents(anatomy: Anatomy, family: Family) -> list[str]:
    """Families that are gone when a branch is."""
    alive = {node.name for node in _at(anatomy, [family], 0).nodes}
    return [f.name for f in anatomy.families if f is not family and f.maker not in alive]


def _at(anatomy: Anatomy, families: Sequence[Family], size: int) -> Network:
    network, _ = narrowed(anatomy, {family.name: range(size) for family in families})
    return network


def _mparams(network: Network) -> float:
    return parameter_count(network) / 1e6


def _mmacs(network: Network) -> float:
    return sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6


def _overlaps(anatomy: Anatomy, kind: str) -> dict[Pair, float]:
    """Cost of each layer that mixes two families, as far as it is theirs."""
    network, found = anatomy.network, anatomy.found
    macs = {row.name: row.macs for row in op_costs(network, tensor_shapes(network))}
    owner = {group: family.name for family in anatomy.families for group in family.groups}
    overlaps: dict[Pair, float] = {}
    for node in network.nodes:
        if not mixes(node) or node.input[1] not in network.weights:
            continue
        axis = input_axis(node)
        total = macs[node.name] if kind == "mmacs" else network.weights[node.input[1]].size
        shares = [shares_of(found.weights.get((node.input[1], side)), owner)
                  for side in (axis, 1 - axis)]  # fmt: skip
        for (one, p), (other, q) in itertools.product(*(part.items() for part in shares)):
            overlaps[one, other] = overlaps.get((one, other), 0.0) + p * q * total / 1e6
    return overlaps


def shares_of(groups: Array | None, owner: Mapping[int, str]) -> dict[str, float]:
    """Which families positions along an axis belong to."""
    shares: dict[str, float] = {}
    every: list[int] = [] if groups is None else groups.tolist()
    for group in every:
        if group in owner:
            shares[owner[group]] = shares.get(owner[group], 0.0) + 1 / len(every)
    return shares


def _apart(anatomy: Anatomy, families: Sequence[Family]) -> list[Family]:
    """Some of the families, of which no two touch the same layer."""
    chosen: list[Family] = []
    taken: set[str] = set()
    for family in families:
        mine = {family.maker, *family.readers}
        if not mine & taken:
            chosen.append(family)
            taken |= mine
    return chosen


def _between(share: float, shares: Sequence[float], spared: Sequence[float]) -> float:
    """What a share saves, on the line through the measured ones."""
    if share >= shares[-1]:
        return float(np.interp(share, shares[::-1], spared[::-1]))
    slope = (spared[-1] - spared[-2]) / (shares[-2] - shares[-1])
    return spared[-1] + slope * (shares[-1] - share)


def _rate(saved: Array, macs: Array) -> float:
    """Milliseconds per million multiply-adds that a family saves."""
    return float(saved.max() / max(macs.max(), 1e-12))
