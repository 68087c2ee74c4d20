"""Which ways through a pool of blocks are tried under a budget, and why these."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import BudgetError
from ..schema import Budget, Certificate
from .search import Stages, Way, best_ways, least_cost

CANDIDATES = 20  # of the best ways that are built
SPARE = {
    "latency_ms": 1.05
}  # of the least that was seen is what a hint asks for: it is measured anew
_OPTIONS = {
    "latency_ms": ("latency", "ms"), "memory_mib": ("memory", "MiB"), "mparams": ("params", "M"),
    "mmacs": ("macs", "M"),
}  # fmt: skip


def limits_of(budget: Budget) -> dict[str, float]:
    """The limits of a budget by the name of what they limit."""
    limits = {name: getattr(budget, name) for name in _OPTIONS}
    return {name: limit for name, limit in limits.items() if limit is not None}


def ways_within(
    stages: Stages, limits: Mapping[str, float], *, most_donors: int | None = None
) -> list[Way]:
    """The 20 best ways, and every donor that keeps the limits as a whole: best first.

    Whole donors need no stitch, so they are tried even if the search finds others more promising.

    Args:
        stages: What there is.
        limits: As :func:`best_ways` takes them.
        most_donors: As there.
    """
    best = best_ways(stages, limits, CANDIDATES, most_donors=most_donors)
    known = {way.blocks for way in best}
    others = [way for way in whole_donors(stages, limits) if way.blocks not in known]
    return sorted([*best, *others], key=lambda way: -way.value)


def whole_donors(stages: Stages, limits: Mapping[str, float]) -> list[Way]:
    """Every donor that keeps the limits as a whole, by what it costs as one."""
    count, donors = stages.value.shape
    ways = [stages.way((d,) * count) for d in range(donors) if stages.is_allowed[:, d].all()]
    return [
        way
        for way in ways
        if all(way.costs[name] <= limit * (1 + 1e-12) for name, limit in limits.items())
    ]


def certificate_of(
    stages: Stages, limits: Mapping[str, float], way: Way, *, most_donors: int | None = None
) -> Certificate:
    """What is proven of a way: none that keeps the limits, by these costs, is worth more than that.

    Costs of mixed ways are sums over blocks, with the latency scaled to what a whole network took
    where one took longer than its sum, and memory an upper bound.
    """
    bound = _greatest(stages, limits, most_donors)
    binding = []
    for name in limits:
        others = {key: limit for key, limit in limits.items() if key != name}
        if _greatest(stages, others, most_donors) > bound + 1e-12:
            binding.append(_OPTIONS[name][0])
    return Certificate(
        method="best-first search", objective=way.value, bound=bound,
        gap=(bound - way.value) / max(abs(bound), 1.0), binding=tuple(binding),
    )  # fmt: skip


def _greatest(stages: Stages, limits: Mapping[str, float], most_donors: int | None) -> float:
    """The greatest value of a way within limits."""
    return max(way.value for way in ways_within(stages, limits, most_donors=most_donors))


def infeasible(
    stages: Stages, limits: Mapping[str, float], *, most_donors: int | None = None
) -> BudgetError:
    """Why no way keeps the limits, and what is the least of each within the others."""
    asked = " and ".join(f"{_OPTIONS[n][0]} <= {v:.4g} {_OPTIONS[n][1]}" for n, v in limits.items())
    known = {}
    for name, limit in limits.items():
        others = {key: other for key, other in limits.items() if key != name}
        least = _least(stages, name, others, most_donors)
        if least is not None and least > limit:
            known[name] = least
    if known:
        said = (f"{_OPTIONS[n][0]} {least:.4g} {_OPTIONS[n][1]}" for n, least in known.items())
        text = f"The least within the others: {', '.join(said)}."
        hints = [
            f"--{_OPTIONS[n][0]} {v * SPARE.get(n, 1.01):.4g}{_OPTIONS[n][1]}"
            for n, v in known.items()
        ]
    else:
        alone = {name: _least(stages, name, {}, most_donors) for name in limits}
        known = {name: least for name, least in alone.items() if least is not None}
        said = (f"{_OPTIONS[n][0]} {least:.4g} {_OPTIONS[n][1]}" for n, least in known.items())
        text = f"Loosening one of them is not enough; alone, the least is {', '.join(said)}."
        hints = ["loosen several limits, or import a smaller network"]
    return BudgetError(
        f"No way through these networks keeps {asked}. {text}", hints=hints,
        details={"reachable": {_OPTIONS[name][0]: least for name, least in known.items()}},
    )  # fmt: skip


def _least(
    stages: Stages, name: str, limits: Mapping[str, float], most_donors: int | None
) -> float | None:
    """The least of a cost within limits of others, of ways and of whole donors."""
    found = [
        least_cost(stages, name, limits, most_donors=most_donors),
        *(way.costs[name] for way in whole_donors(stages, limits)),
    ]
    return min((least for least in found if least is not None), default=None)
