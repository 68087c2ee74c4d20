"""Which ways through a pool of blocks are tried under a budget, and why these."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import BudgetError
from ..schema import Budget, Certificate
from .search import Stages, Way, best_ways, least_cost

CANDIDATES = 20  # of the best ways that are built
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
    whole = best_ways(stages, limits, stages.value.shape[1], most_donors=1)
    known = {way.blocks for way in best}
    others = [way for way in whole if way.blocks not in known]
    return sorted([*best, *others], key=lambda way: -way.value)


def certificate_of(
    stages: Stages, limits: Mapping[str, float], way: Way, *, most_donors: int | None = None
) -> Certificate:
    """What is proven of a way: no way within the limits is worth more than the bound."""
    (best,) = best_ways(stages, limits, 1, most_donors=most_donors)
    binding = []
    for name in limits:
        others = {key: limit for key, limit in limits.items() if key != name}
        (looser,) = best_ways(stages, others, 1, most_donors=most_donors)
        if looser.value > best.value + 1e-12:
            binding.append(_OPTIONS[name][0])
    return Certificate(
        method="best-first search", objective=way.value, bound=best.value,
        gap=(best.value - way.value) / max(abs(best.value), 1.0), binding=tuple(binding),
    )  # fmt: skip


def infeasible(
    stages: Stages, limits: Mapping[str, float], *, most_donors: int | None = None
) -> BudgetError:
    """Why no way keeps the limits, and what is the least of each within the others."""
    asked = " and ".join(f"{_OPTIONS[n][0]} <= {v:.4g} {_OPTIONS[n][1]}" for n, v in limits.items())
    reachable = {
        name: least_cost(
            stages, name, {key: limit for key, limit in limits.items() if key != name},
            most_donors=most_donors,
        )
        for name in limits
    }  # fmt: skip
    known = {
        name: least
        for name, least in reachable.items()
        if least is not None and least > limits[name]
    }
    if known:
        said = (f"{_OPTIONS[n][0]} {least:.4g} {_OPTIONS[n][1]}" for n, least in known.items())
        text = f"The least within the others: {', '.join(said)}."
        hints = [f"--{_OPTIONS[n][0]} {v * 1.01:.4g}{_OPTIONS[n][1]}" for n, v in known.items()]
    else:
        text = "Loosening one of them is not enough."
        hints = ["loosen several limits, or import a smaller network"]
    return BudgetError(
        f"No way through these networks keeps {asked}. {text}", hints=hints,
        details={"reachable": {_OPTIONS[name][0]: least for name, least in known.items()}},
    )  # fmt: skip
