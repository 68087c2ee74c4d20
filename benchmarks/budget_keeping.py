"""Whether what is built keeps its budgets: by the estimates, and when measured on this machine.

    python benchmarks/budget_keeping.py [--builds N]

Writes ``results/budget_keeping.csv``, one row per library and budget. Every build has a random
task and a latency limit at a random percentile, and each of the other budgets with even odds,
drawn between what the smallest and the full network cost; builds that no network can keep are
drawn again. Counted are builds that break a budget

* estimated: by the estimate in the manifest;
* measured: by a measurement of its own after the build. Parameters and multiply-adds are counted in
  the file, the file is weighed, the memory is its weights plus what ONNX Runtime allocates for
  activations. A latency is broken when ``nnfactory bench`` would say FAIL; ``gave_up`` counts
  builds that nnfactory gave up after three measurements of its own.

``median_ratio`` and ``worst_ratio`` are measured by estimated. Shares have Wilson 95 % intervals.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from equal_latency import size_options
from results_file import write_rows

import nnfactory
from nnfactory.devices.measure import measure_host
from nnfactory.devices.memory import allocated_mib
from nnfactory.factory.assembler.footprint import empty_counts, full_counts
from nnfactory.factory.assembler.problem import estimate, problem_for
from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.network import load_network, tensor_shapes
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.library.store import library_folders, open_library
from nnfactory.factory.metrics import proportion_interval
from nnfactory.factory.schema import Budget, BuildResult, Estimate
from nnfactory.factory.units import MIB

SEED = 11
PERCENTILES = (50, 90, 95)
OTHERS = ("mparams", "mmacs", "memory_mib", "file_mib")
Kept = dict[str, tuple[float, float, float]]  # per budget: limit, estimated, measured


@click.command()
@click.option("--builds", default=50, show_default=True, help="Builds per library.")
def main(builds: int) -> None:
    """Build with random budgets and measure whether they are kept."""
    rows: list[dict[str, object]] = []
    for name in library_folders():
        library = open_library(name)
        rng = np.random.default_rng(SEED)
        found: list[Kept] = []
        gave_up = 0
        while len(found) + gave_up < builds:
            classes = rng.choice(
                library.classes, int(rng.integers(2, min(20, len(library.classes)) + 1)), False
            )
            one = _built(library, [str(c) for c in classes], _budget(library, rng))
            if one == "gave up":
                gave_up += 1
            elif isinstance(one, dict):
                found.append(one)
        for budget in ("latency_ms", *OTHERS):
            rows.append(_row(library.name, budget, found, gave_up))
            click.echo("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    click.echo(write_rows("budget_keeping", rows))


def _budget(library: ModuleLibrary, rng: np.random.Generator) -> Budget:
    """Limits between the smallest and the full network."""
    percentile = int(rng.choice(PERCENTILES))
    views = size_options(library)
    least, most = (
        estimate(problem_for(view.library, library.task(), view.table), counts, percentile)
        for view, counts in (
            (views[-1], empty_counts(library)), (views[0], full_counts(library)),
        )
    )  # fmt: skip
    assert least.latency_ms is not None
    assert most.latency_ms is not None
    limits = {"latency_ms": _between(least.latency_ms.value, most.latency_ms.value, rng)}
    for name in OTHERS:
        limit = _between(getattr(least, name), getattr(most, name), rng)
        if rng.random() < 0.5:
            limits[name] = limit
    return Budget(percentile=percentile, **limits)


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    return low + float(rng.uniform(0.05, 1)) * (high - low)


def _built(library: ModuleLibrary, classes: list[str], budget: Budget) -> Kept | str:
    """Limits of one build with what was estimated and measured; why not, if it was not built."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "artifact"
        try:
            result = nnfactory.build(
                task=library.kind, device="host", budget=budget, classes=classes,
                library=library.name, out_dir=place,
            )  # fmt: skip
        except nnfactory.BudgetError as error:
            return "gave up" if "measured" in error.details else "infeasible"
        return _kept(result, budget, place / "model.onnx")


def _kept(result: BuildResult, budget: Budget, path: Path) -> Kept:
    network, model = load_network(path), path.read_bytes()
    shapes = tensor_shapes(network)
    again = measure_host(model, device="host", budget=budget)
    latency = again.percentile(budget.percentile)
    if again.verdict != "FAIL":  # by its interval, so a point just above is no violation
        assert budget.latency_ms is not None
        latency = min(latency, budget.latency_ms)
    measured = {
        "latency_ms": latency,
        "mparams": parameter_count(network) / 1e6,
        "mmacs": sum(row.macs for row in op_costs(network, shapes)) / 1e6,
        "memory_mib": allocated_mib(model),
        "file_mib": len(model) / MIB,
    }
    return {
        name: (limit, _estimated(result.estimate, name), value)
        for name, value in measured.items()
        if (limit := getattr(budget, name)) is not None
    }


def _estimated(found: Estimate, name: str) -> float:
    value = getattr(found, name)
    return float(value.value if name == "latency_ms" else value)


def _row(library: str, budget: str, found: list[Kept], gave_up: int) -> dict[str, object]:
    """How often a budget was asked for and broken."""
    asked = np.array([one[budget] for one in found if budget in one])
    limit, estimated, measured = asked.T
    broken = proportion_interval(int((measured > limit * (1 + 1e-9)).sum()), len(asked))
    ratio = measured / estimated
    return {
        "library": library, "budget": budget, "builds": len(asked),
        "gave_up": gave_up if budget == "latency_ms" else "",
        "estimated_broken": int((estimated > limit * (1 + 1e-9)).sum()),
        "measured_broken": int((measured > limit * (1 + 1e-9)).sum()),
        "broken_high": round(broken.high, 3),
        "median_ratio": round(float(np.median(ratio)), 4),
        "worst_ratio": round(float(ratio.max()), 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
