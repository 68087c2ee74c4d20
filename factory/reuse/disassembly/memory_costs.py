"""Peak memory as costs that add up: one for every moment of a run at which it may be highest.

Memory is a maximum over the moments of a run. At each of them it is the weights plus the tensors
that exist then, and either is a sum over families, so a limit holds if it holds at every moment.
"""

from __future__ import annotations

from ...graph.memory import Buffer, activation_bytes, live_buffers
from ...graph.network import Network, tensor_shapes
from ...units import MIB
from .costs import Costs, gone_of, shares_of
from .families import Anatomy

WEIGHT_MIB = 4e6 / MIB  # of a million parameters


def memory_costs(anatomy: Anatomy, answering: Network, mparams: Costs) -> dict[str, Costs]:
    """Costs in MiB by the names "memory_mib@0" and so on, one per moment.

    Args:
        anatomy: The network.
        answering: The same with what makes its answer, which takes memory, too.
        mparams: What its weights cost.
    """
    network, shapes = answering, tensor_shapes(answering)
    weights = sum(array.nbytes for array in network.weights.values()) / MIB
    overlaps = {pair: WEIGHT_MIB * value for pair, value in mparams.overlaps.items()}
    gone = {family.name: gone_of(family) for family in anatomy.families}
    owners = {group: f.name for f in anatomy.families for group in f.groups}
    found: dict[str, Costs] = {}
    for live in _greatest(live_buffers(network, shapes)):
        saved = {name: WEIGHT_MIB * rows for name, rows in mparams.saved.items()}
        for buffer in live:
            size = activation_bytes({buffer}, shapes) / MIB
            groups = anatomy.found.channels.get(buffer.tensor)
            for name, share in shares_of(groups, owners).items():
                saved[name] = saved[name] + size * share * gone[name]
        whole = weights + activation_bytes(live, shapes) / MIB
        found[f"memory_mib@{len(found)}"] = Costs(whole=whole, saved=saved, overlaps=overlaps)
    return found


def _greatest(rows: list[set[Buffer]]) -> list[set[Buffer]]:
    """The moments at which no other one has the same tensors and more."""
    kept: list[set[Buffer]] = []
    for live in sorted(rows, key=len, reverse=True):
        if not any(live <= other for other in kept):
            kept.append(live)
    return kept
